"""How long a run takes, from a few of its own steps on this machine. Nothing stays of them on the disk."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reflora_cli.console.reporter import SILENT, Reporter
from reflora_cli.ground.interruption import noted_signals
from reflora_cli.objectives.watched import watched_tally
from reflora_cli.planning.devices import resident, shown_gib
from reflora_cli.planning.plan import Plan, complete
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.environment import peak_memory
from reflora_cli.training.devices import make_accelerator
from reflora_cli.training.earlier import find_earlier
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare
from reflora_cli.training.session import Session
from reflora_cli.training.step import train_step
from reflora_cli.training.train import compute_of, make_ready

STEPS, FIRST = 5, 2
"""The steps that are measured, after so many first ones that pay for what is made once."""
BATCHES = 2
"""The batches of each split that are scored to know how long all take."""


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes as measured. step: of a step on average. epoch: of an epoch's steps, in proportion to its
    padded tokens. evaluation: of one evaluation, in proportion to its rows. total: of the whole run, evaluations too.
    peak: the most memory of this process; before: what it had before the base was loaded.
    """

    steps: int
    step: float
    epoch: float
    evaluation: float
    total: float | None
    peak: int
    before: int


def measured(recipe: Recipe, plan: Plan, reporter: Reporter) -> dict[str, Any]:
    """Run a few steps of the job, show how long all would take, and return it for `--json`. Raises InputError as
    training does, and DivergedError.
    """
    before = resident()
    recipe = complete(recipe)
    accelerator = make_accelerator(recipe)
    compute = compute_of(recipe, accelerator)
    job = prepare(recipe, compute, recipe.model, find_earlier(recipe), reporter=reporter)
    make_ready(job, accelerator, reporter)
    module, optimizer = accelerator.prepare(job.objective.loss_module, job.optimizer)
    with tempfile.TemporaryDirectory(prefix="reflora-plan-") as place, noted_signals() as interruption:
        session = Session(job, accelerator, module, optimizer, RunDirectory(Path(place)), SILENT, interruption)
        found = timed(session, job, plan, before)
    for line in lines(found, plan):
        reporter.note(line)
    return asdict(found)


def timed(session: Session, job: Job, plan: Plan, before: int) -> Measured:
    """Return what the steps and a part of the evaluations take."""
    session.model.train()
    count = max(1, min(STEPS, job.total_steps - FIRST))
    seconds, tokens = 0.0, 0
    for step in range(min(FIRST + count, job.total_steps)):
        start = time.perf_counter()
        train_step(session, step)
        if step >= FIRST or job.total_steps <= FIRST:
            seconds, tokens = seconds + time.perf_counter() - start, tokens + padded(job, step)
    peak = peak_memory(job.compute.device)
    evaluation = scoring_seconds(job)
    each = plan.epoch.padded / job.sampler.steps_per_epoch if plan.epoch else tokens / count
    step_time = seconds / tokens * each
    total = job.total_steps * step_time + (plan.scoring.times or 0) * evaluation
    return Measured(count, step_time, step_time * job.sampler.steps_per_epoch, evaluation, total, peak, before)


def padded(job: Job, step: int) -> int:
    """Return the tokens of a step, with its padding, in which time is in proportion."""
    size, lengths = job.recipe.train.micro_batch_size, [len(row.input_ids) for row in job.rows.training]
    alike = sorted(lengths[row] for row in job.sampler.step_rows(step))
    chunks = [alike[at : at + size] for at in range(0, len(alike), size)]
    return sum(sum(own) if job.recipe.train.packing else max(own) * len(own) for own in chunks)


@torch.no_grad()
def scoring_seconds(job: Job) -> float:
    """Return the seconds of one evaluation, from evenly spaced rows of every split."""
    total, size = 0.0, job.recipe.eval.batch_size
    for split in job.rows.splits:
        every = max(1, len(split.rows) // (BATCHES * size))
        part = replace(split, rows=list(split.rows)[::every][: BATCHES * size], asked=())
        start = time.perf_counter()
        watched_tally(job.objective, part, size, SILENT)
        total += (time.perf_counter() - start) * len(split.rows) / len(part.rows)
    return total


def lines(found: Measured, plan: Plan) -> list[str]:
    """Return what was measured as lines."""
    off = found.peak / plan.memory.total - 1
    return [
        f"measured in {found.steps} steps on this machine",
        f"  {found.step:.3g} s a step, {found.epoch:.3g} s an epoch, {found.evaluation:.3g} s an evaluation",
        f"  {found.total or 0:.3g} s in all" if found.total is not None else "  the whole run: not known",
        f"  peak memory {shown_gib(found.peak)}, planned {shown_gib(plan.memory.total)} ({off:+.0%})",
    ]
