"""How long a run takes, from a few of its own steps on this machine. Nothing stays of them on the disk."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from reflora_cli.console.reporter import SILENT, Reporter
from reflora_cli.data.batches import cut
from reflora_cli.ground.interruption import noted_signals
from reflora_cli.model.base import pad_multiple
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.watched import watched_tally
from reflora_cli.planning.devices import resident, shown_gib
from reflora_cli.planning.plan import Plan, complete
from reflora_cli.planning.rows import computed_shape
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

FIRST = 2
"""The steps before those that are measured: they pay for what is made once."""
PARTS, EACH = 3, 3
"""An epoch's steps in so many parts by their tokens, and the steps of each part that are measured."""
BATCHES = 2
"""The batches of each split that are scored to know how long all take."""


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes as measured. steps: the number of steps that were measured. step: of a step on average. epoch:
    of an epoch's steps: the seconds for a token of short, middling and long steps, each the median of a few, times the
    tokens of all such steps, padding included. evaluation: of one evaluation, in proportion to its tokens, or to its
    rows where the tokens that it reads are not known. total: of the whole run, evaluations too.
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
    first = min(FIRST, job.total_steps - 1)
    for step in range(first):
        train_step(session, step)
    left = job.total_steps - first  # an update rule may not be ready for more steps than the run has
    parts = parts_of(job, min(PARTS, left))
    rates = measured_rates(session, parts, min(EACH, left // len(parts)))
    seconds = sum(statistics.median(own) * sum(part.values()) for own, part in zip(rates, parts, strict=True))
    step_time = seconds / sum(map(len, parts))
    peak = peak_memory(job.compute.device)
    evaluation = scoring_seconds(job)
    total = job.total_steps * step_time + (plan.scoring.times or 0) * evaluation
    count = sum(map(len, rates))
    return Measured(count, step_time, step_time * job.sampler.steps_per_epoch, evaluation, total, peak, before)


def parts_of(job: Job, count: int) -> list[dict[int, int]]:
    """Return the tokens of the first epoch's steps, as far as the run has them, by step: in at most so many parts of
    about as many steps, those with the fewest tokens first. There is no empty part.
    """
    tokens = {step: padded(job, step) for step in range(min(job.total_steps, job.sampler.steps_per_epoch))}
    order = sorted(tokens, key=lambda step: tokens[step])
    ends = [len(order) * number // count for number in range(count + 1)]
    parts = (order[begin:end] for begin, end in itertools.pairwise(ends))
    return [{step: tokens[step] for step in part} for part in parts if part]


def measured_rates(session: Session, parts: Sequence[Mapping[int, int]], each: int) -> list[list[float]]:
    """Run so many steps of every part, one part after the other so that a machine that slows down slows them all, and
    return their seconds for each token. A part's steps are evenly spaced in it; where it has few, they run again.
    """
    rates: list[list[float]] = [[] for _ in parts]
    for number in range(each):
        for own, part in zip(rates, parts, strict=True):
            step = [*part][(2 * number + 1) * len(part) // (2 * each)]
            start = time.perf_counter()
            train_step(session, step)
            own.append((time.perf_counter() - start) / part[step])
    return rates


def padded(job: Job, step: int) -> int:
    """Return the tokens of a step, with the padding that is computed, in which time is in proportion."""
    alike = sorted(len(job.rows.training[row].input_ids) for row in job.sampler.step_rows(step))
    multiple = pad_multiple(job.base, job.compute)
    chunks = cut(alike, job.recipe.train.micro_batch_size)
    return sum(computed_shape(job.recipe, own, multiple)[2] for own in chunks)


@torch.no_grad()
def scoring_seconds(job: Job) -> float:
    """Return the seconds of one evaluation, from evenly spaced rows of every split."""
    total, size = 0.0, job.recipe.eval.batch_size
    for split in job.rows.splits:
        every = max(1, len(split.rows) // (BATCHES * size))
        part = replace(split, rows=list(split.rows)[::every][: BATCHES * size], asked=())
        start = time.perf_counter()
        watched_tally(job.objective, part, size, SILENT)
        total += (time.perf_counter() - start) * scoring_cost(split, size) / scoring_cost(part, size)
    return total


def scoring_cost(split: Split, size: int) -> int:
    """Return what the time of scoring a split is in proportion to: the tokens of its batches, sorted by length and
    padded, or its rows where answers are found in other ways.
    """
    if split.task is not None:
        return len(split.rows)
    lengths = sorted(len(row.input_ids) for row in split.rows)
    batches = (lengths[at : at + size] for at in range(0, len(lengths), size))
    return sum(max(own) * len(own) for own in batches)


def lines(found: Measured, plan: Plan) -> list[str]:
    """Return what was measured as lines."""
    off = found.peak / plan.memory.total - 1
    return [
        f"measured in {found.steps} steps on this machine",
        f"  {found.step:.3g} s a step, {found.epoch:.3g} s an epoch, {found.evaluation:.3g} s an evaluation",
        f"  {found.total or 0:.3g} s in all" if found.total is not None else "  the whole run: not known",
        f"  peak memory {shown_gib(found.peak)}, planned {shown_gib(plan.memory.total)} ({off:+.0%})",
    ]
