"""Compare ways to train low-rank factors on matrix problems whose answers are known.

    python docs/study/matrices.py                         all of it: some minutes on one core
    python docs/study/matrices.py --report                tables and figures of the results that are there
    python docs/study/matrices.py --quick --output DIR    a few runs, in seconds

It writes `matrices.jsonl.xz`, `matrices.md` and figures. The same machine and versions give the same numbers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from matrix_data import Data, read_data, write_data
from matrix_gauge import GAUGES, deviation
from matrix_gauge import VARIANTS as GAUGE_VARIANTS
from matrix_plan import ADAMW, FULL, LORA, QUICK, SGD, Budget, planned, planned_quickly
from matrix_published import METHODS, STEPS, published_row
from matrix_report import write_report
from matrix_results import result_of
from matrix_runs import Setting
from reflora_cli.methods.settings import Optimizer

HERE = Path(__file__).parent
RESULTS = "matrices.jsonl.xz"


@dataclass(frozen=True)
class Study:
    """What is run. plan: settings and methods, some twice. gauge: optimizers and methods whose paths from two
    factorizations are compared over `gauge_steps`. published: methods of the paper's figure, and its steps."""

    plan: Sequence[tuple[Setting, str]]
    budget: Budget
    gauge: Sequence[tuple[Optimizer, str]]
    gauge_steps: int
    published: Sequence[str]
    published_steps: int


def whole_study() -> Study:
    """Return all of it."""
    gauge = [(optimizer, name) for optimizer, own in GAUGE_VARIANTS.items() for name in own]
    return Study([*planned()], FULL, gauge, 30, [*METHODS], STEPS)


def quick_study() -> Study:
    """Return a little of everything, with theorems that hold after few steps too."""
    gauge = [(SGD, LORA), (SGD, "reflora"), (SGD, "reflora, damping 0"), (ADAMW, "reflora"), (ADAMW, "lora-rite")]
    return Study([*planned_quickly()], QUICK, gauge, 10, [LORA, "reflora"], 20)


def measured(study: Study) -> Data:
    """Run the study, and say how far it is."""
    began = time.process_time()
    plan = [*dict.fromkeys(study.plan)]
    results = {}
    for number, (setting, name) in enumerate(plan, 1):
        results[setting.key, name] = result_of(setting, name, study.budget)
        if number % 20 == 0 or number == len(plan):
            print(
                f"{number} of {len(plan)}, {time.process_time() - began:.0f} s of one core", file=sys.stderr, flush=True
            )
    gauge = [
        {
            "optimizer": optimizer.value,
            "variant": name,
            "apart": {
                kind: deviation(GAUGE_VARIANTS[optimizer][name], optimizer, kind, study.gauge_steps) for kind in GAUGES
            },
        }
        for optimizer, name in study.gauge
    ]
    published = [published_row(name, study.published_steps) for name in study.published]
    return Data(results, gauge, published, round(time.process_time() - began))


def main(words: Sequence[str]) -> None:
    """Run the study or read its results, and write the report. words: the arguments of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few runs, which need --output")
    parser.add_argument("--report", action="store_true", help="run nothing: read matrices.jsonl.xz")
    parser.add_argument("--output", type=Path, default=HERE, help="where results, report and figures are")
    arguments = parser.parse_args(words)
    if arguments.quick and arguments.output.resolve() == HERE.resolve():
        parser.error("--quick would overwrite the study: give another --output")
    if arguments.report and not (arguments.output / RESULTS).is_file():
        parser.error(f"there is no {RESULTS} in {arguments.output}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    if not arguments.report:
        write_data(arguments.output / RESULTS, measured(quick_study() if arguments.quick else whole_study()))
    write_report(arguments.output, read_data(arguments.output / RESULTS))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
