"""Seconds until something happens, each in a process of its own: ours beside the peers' imports and first step.

    python -m tests.benchmarks.startup [--rounds 5]

`to the first step` is a run of one step with the built-in task and model, read and trained, to its end.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from reflora_cli.console.output import show_table

REFLORA = ("-m", "reflora_cli")
ONE_STEP = ("train.steps=1", "train.epochs=null", "train.warmup_steps=0", "eval.every=never", "eval.select=last",
            "eval.at_start=false")  # fmt: skip
PEER = """
from pathlib import Path
from tests.benchmarks import peft_trainer
from tests.benchmarks.setting import Setting
peft_trainer.run(Setting("builtin/entailment", "builtin:tiny-llama", "hub", "lora", 0, 32, 1e-3, 1, 1), Path({place!r}))
"""


def commands(place: str) -> dict[str, tuple[str, ...]]:
    """Name -> arguments of Python. place: a directory for what is written."""
    train = (*REFLORA, "train", "quickstart", "method.name=lora", "task.max_train_rows=32", *ONE_STEP)
    return {
        "reflora --help": (*REFLORA, "--help"),
        "reflora train, a wrong recipe": (*REFLORA, "train", "quickstart", "train.epoch=1"),
        "reflora train --dry-run": (*REFLORA, "train", "quickstart", "--dry-run"),
        "reflora train, to the first step": (*train, "--output", f"{place}/run"),
        "import torch": ("-c", "import torch"),
        "import transformers.Trainer": ("-c", "from transformers import Trainer"),
        "import peft": ("-c", "import peft"),
        "PEFT + Trainer, to the first step": ("-c", PEER.format(place=place)),
    }


def seconds(arguments: tuple[str, ...]) -> float:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], capture_output=True, env=environment, check=False)
    if done.returncode not in (0, 2):
        raise RuntimeError(done.stderr.decode()[-2000:])
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        with tempfile.TemporaryDirectory() as place:
            for name, command in commands(place).items():
                taken = seconds(command)
                if number:  # the first round fills the system's cache of files
                    found.setdefault(name, []).append(taken)
    rows = [(name, f"{statistics.median(own):.2f}", f"{min(own):.2f} to {max(own):.2f}") for name, own in found.items()]
    show_table("start-up", ("command", "seconds", "spread"), rows)
    print(json.dumps({"seconds": found}))


if __name__ == "__main__":
    main()
