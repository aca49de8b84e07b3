"""Take one optimizer step of all processes, with its checks and its line in the log.

The order is fixed: accumulate, reduce, unscale, clip, update rule, optimizer, update rule.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from reflora_cli.console.reporter import StepRecord
from reflora_cli.data.batches import micro_batches
from reflora_cli.ground.errors import DivergedError, Problem
from reflora_cli.model.precision import precision
from reflora_cli.objectives.reach import place
from reflora_cli.optim.health import pair_health, unreached
from reflora_cli.recipe.schedules import learning_rate_multiplier
from reflora_cli.training.ahead import computes_by_itself
from reflora_cli.training.checkpoint import Window
from reflora_cli.training.job import Job
from reflora_cli.training.session import Session, append, is_due
from reflora_cli.training.targets import refuse_unused


def train_step(session: Session, step: int) -> None:
    """Take one optimizer step (0-based) and write its line in the log."""
    job, progress = session.job, session.progress
    session.compiling.take()  # what was compiled between steps, as for written answers, is in no step's time
    clock = time.perf_counter()
    rows = job.sampler.step_rows(step)
    mean, size = accumulate(session, rows), clip(session)
    look_ahead(session, step + 1)
    loss, norm = read(session, mean, size)
    check_finite(session, step + 1, loss, norm)
    if step == 0:
        check_reached(session)
    if progress.trend.is_spike(loss):
        report_spike(session, step + 1, loss)
    rate = set_rate(session, step)
    session.optimizer.step()
    progress.skipped += session.optimizer.step_was_skipped
    session.optimizer.zero_grad()
    progress.step = step + 1
    seconds = time.perf_counter() - clock - (compiled := session.compiling.take())
    progress.compile_seconds += compiled
    progress.window.add(loss, len(rows), seconds)
    progress.seconds += seconds
    progress.times.add(seconds)
    for why in session.compiling.untold():
        session.reporter.note(f"step {step + 1}: a block cannot be compiled and runs eagerly from now on: {why}")
    train = job.recipe.train
    if is_due(session, train.log_every):
        log_step(session, rate, norm)
        progress.window = Window()
    every = train.log_every if train.health_every == "log_every" else train.health_every
    if every and is_due(session, every) and job.adapted.pairs:
        log_health(session)


def accumulate(session: Session, rows: list[int]) -> Tensor:
    """Run backward through all micro-batches of a step; returns this process's share of the step's mean loss, a scalar,
    with the penalty of the update rule if it has one.

    The loss is normalized by the weight of the whole step (its rows, or its supervised tokens), so that k micro-batches
    give the gradient of one large batch. It is multiplied by the number of processes because their gradients are
    averaged.
    """
    job, accelerator = session.job, session.accelerator
    compute, chunks = job.compute, chunks_of(job, rows)
    weight = sum(job.objective.weight(job.rows.training[row]) for row in rows)
    total = penalize(session) / compute.processes
    for index, chunk in enumerate(chunks):
        with synchronizing(session, index == len(chunks) - 1):
            loss = chunk_loss(session, chunk or rows[:1]) * (compute.processes / weight)
            if not chunk:
                loss = loss * 0
            accelerator.backward(loss)
        total += loss.detach() / compute.processes
    return total


def chunks_of(job: Job, rows: list[int]) -> list[list[int]]:
    """Return the micro-batches of a step that are this process's share; some may be empty."""
    # Sorted, rows of a micro-batch need little padding, and every process gets short and long ones alike.
    alike = sorted(rows, key=lambda row: len(job.rows.training[row].input_ids))
    size = job.recipe.train.micro_batch_size
    return micro_batches(alike, job.compute.rank, job.compute.processes, size, job.kind)


def look_ahead(session: Session, step: int) -> None:
    """Make the first batch of a step while the device still computes, if there is such a step and such a device."""
    job = session.job
    if step < job.total_steps and computes_by_itself(job.compute.device):
        rows = job.sampler.step_rows(step)
        session.batches.prepare(chunks_of(job, rows)[0] or rows[:1])


def penalize(session: Session) -> Tensor:
    """Run backward through the rule's penalty, once in a step; returns it, a scalar.

    It is the same in all processes, so that the mean of their gradients has it once. It comes before the micro-batches:
    the last of them reduces the gradients.
    """
    penalty = session.job.optimizer.rule.penalty()
    if penalty is None:
        return torch.zeros((), device=session.job.compute.device)
    with synchronizing(session, last=False):
        session.accelerator.backward(penalty)
    return penalty.detach()


def read(session: Session, loss: Tensor, norm: Tensor) -> tuple[float, float]:
    """Return the loss of all processes and the norm: the one place of a step where the host waits for the device.

    In the same exchange, a signal that one process got reaches all.
    """
    own = torch.stack([loss, norm, torch.full_like(loss, session.interruption.signal)])
    if session.job.compute.processes == 1:
        values = own.tolist()
        return values[0], values[1]
    gathered: list[list[float]] = session.accelerator.gather(own[None]).tolist()
    session.agreed_stop = int(max(signal for _, _, signal in gathered))
    return sum(share for share, _, _ in gathered), gathered[0][1]


def synchronizing(session: Session, last: bool) -> AbstractContextManager[None]:
    """Let processes reduce gradients once per step, with the last micro-batch."""
    return nullcontext() if last else session.accelerator.no_sync(session.model)


def chunk_loss(session: Session, chunk: list[int]) -> Tensor:
    """Return the summed loss of some rows."""
    job = session.job
    arguments = session.batches.take(chunk)
    with precision(job.compute.device, job.compute.dtype), session.saving():
        loss: Tensor = session.model(**arguments)
    return loss


def clip(session: Session) -> Tensor:
    """Unscale and clip the gradients; returns their norm before clipping, a scalar."""
    limit = session.job.recipe.train.max_grad_norm or float("inf")
    norm: Tensor = session.accelerator.clip_grad_norm_(session.parameters.values(), limit)
    return norm


def check_finite(session: Session, step: int, loss: float, norm: float) -> None:
    """Raises DivergedError before a non-finite step reaches the weights; float16's scaler skips overflowing
    gradients itself.
    """
    scaled = session.accelerator.scaler is not None
    if torch.isfinite(torch.tensor(loss)) and (scaled or torch.isfinite(torch.tensor(norm))):
        return
    saved = session.run.checkpoints()
    bad = (name for name, p in session.parameters.items() if p.grad is not None and not p.grad.isfinite().all())
    problem = Problem(
        "the loss or a gradient is no longer finite",
        where=f"step {step} of {session.job.total_steps}",
        found=f"loss {loss}, first non-finite gradient in {next(bad, 'no adapter: the loss itself')}",
        remedy="lower train.learning_rate; --detect-anomaly finds the first operation that is not finite; "
        f"last checkpoint: {saved[-1] if saved else 'none yet'}",
    )
    raise DivergedError(problem)


def check_reached(session: Session) -> None:
    """Stop at the first step if no gradient reaches an adapter, which would never be trained."""
    layers = session.job.adapted.by_layer
    dead = unreached(layers)
    used = {place(name) for name in layers if name not in dead}
    # An expert that no token was sent to in this step may have some in the next one.
    refuse_unused([name for name in dead if place(name) == name or place(name) not in used], len(layers))


def report_spike(session: Session, step: int, loss: float) -> None:
    """Say that a step's loss is out of line, and which module's gradient is the largest."""
    norms = {name: float(p.grad.norm()) for name, p in session.parameters.items() if p.grad is not None}
    largest = max(norms, key=norms.__getitem__)
    mean = session.progress.trend.mean
    session.reporter.note(f"step {step}: loss {loss:.4g} is far above {mean:.4g}; largest gradient in {largest}")
    append(session, {"event": "spike", "step": step, "loss": loss, "mean": mean, "largest_gradient": largest})


def set_rate(session: Session, step: int) -> float:
    """Set every group's learning rate for the 0-based `step`; returns the rate of A.

    As under the Trainer, a step that float16's scaler skipped does not advance the schedule.
    """
    train, total = session.job.recipe.train, session.job.total_steps
    taken = step - session.progress.skipped
    multiplier = learning_rate_multiplier(train.schedule, taken, train.warmup_steps, total)
    for group in session.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier
    rate: float = session.optimizer.param_groups[0]["lr"]
    return rate


def log_step(session: Session, rate: float, norm: float) -> None:
    job, step, window = session.job, session.progress.step, session.progress.window
    record = StepRecord(
        step=step,
        epoch=step / job.sampler.steps_per_epoch,
        loss=window.loss / window.steps,
        rate=rate,
        gradient_norm=norm,
        examples_per_second=window.rows / max(window.seconds, 1e-9),
    )
    session.reporter.step(record)
    values = {"loss": record.loss, "learning_rate": rate, "gradient_norm": norm if norm < float("inf") else None}
    numbers = job.optimizer.rule.logged()
    speed = {"examples_per_second": record.examples_per_second, "seconds": session.progress.seconds}
    append(session, {"event": "step", "step": step, "epoch": record.epoch, **values, **speed, **numbers})
    if step == min(job.recipe.train.log_every, job.total_steps):
        session.progress.first_loss = record.loss
    session.progress.last_loss = record.loss
    report_plain(session)


def report_plain(session: Session) -> None:
    """Report a change in the number of adapters whose last step was the optimizer's alone."""
    job, step = session.job, session.progress.step
    plain = job.optimizer.rule.stepped_plainly()
    if len(plain) != session.plain:
        session.plain = len(plain)
        without = "their BA is zero or nearly of lower rank, or their A and B have too different norms"
        first = f"; first {plain[0]}" if plain else ""
        session.reporter.note(f"step {step}: {len(plain)} of {len(job.adapted.pairs)} adapters cannot be "
                              f"preconditioned and take plain steps: {without}{first}")  # fmt: skip


def log_health(session: Session) -> None:
    """Log the state of every pair of factors and which of them stepped plainly."""
    job = session.job
    modules = pair_health(job.adapted.pairs, job.recipe.method.update.damping_share)
    plain = job.optimizer.rule.stepped_plainly()
    append(session, {"event": "health", "step": session.progress.step, "modules": modules, "plain": plain})
