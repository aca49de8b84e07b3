"""The training loop: optimizer steps with their logging, evaluations and checkpoints.

The order of a step is fixed: accumulate, reduce, unscale, clip, update rule, AdamW, update rule.
"""

from __future__ import annotations

import json
import signal
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from reflora_cli.adapter_files import adapter_tensors, write_adapter
from reflora_cli.checkpoint import (
    Checkpoint,
    Progress,
    Window,
    named_random_states,
    random_state,
    save_checkpoint,
    save_stopped,
)
from reflora_cli.console import EvaluationRecord, Reporter, StepRecord
from reflora_cli.data.batches import micro_batches
from reflora_cli.errors import DivergedError, InputError, Problem, StoppedError
from reflora_cli.interruption import Aborted, Interruption
from reflora_cli.job import Job
from reflora_cli.model.precision import precision
from reflora_cli.optim.build import damping
from reflora_cli.optim.health import pair_health, unreached
from reflora_cli.optim.pair_adamw import state_tensors
from reflora_cli.runs import RunDirectory, readable_os_errors, sync
from reflora_cli.schedules import learning_rate_multiplier


@dataclass
class Session:
    """A job under way: accelerate's handles on it, its directory, and what has advanced."""

    job: Job
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    run: RunDirectory
    reporter: Reporter
    progress: Progress = field(default_factory=Progress)
    interruption: Interruption = field(default_factory=Interruption)
    agreed_stop: int = 0
    """The signal by which all processes stop after this step; what only one of them got is no reason yet."""

    @property
    def is_writer(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter by its full name."""
        return self.job.adapted.parameters


def run_steps(session: Session) -> None:
    """All optimizer steps that are left, with their logging, evaluations and checkpoints.

    Raises StoppedError after a signal, once all that continuing needs is on the disk.
    """
    job, progress = session.job, session.progress
    try:
        if progress.step == 0 and job.recipe.eval.at_start and progress.before is None:
            progress.before = evaluate(session)
        session.reporter.begin(progress.step, job.total_steps)
        session.model.train()
        after_step(session)  # an evaluation that was interrupted
        for step in range(progress.step, job.total_steps):
            train_step(session, step)
            after_step(session)
    except Aborted:
        stop(session)


def train_step(session: Session, step: int) -> None:
    """One optimizer step (0-based) and its line in the log."""
    job, progress = session.job, session.progress
    clock = time.perf_counter()
    rows = job.sampler.step_rows(step)
    loss, norm = read(session, accumulate(session, rows), clip(session))
    check_finite(session, step + 1, loss, norm)
    if step == 0:
        check_reached(session)
    if progress.trend.is_spike(loss):
        report_spike(session, step + 1, loss)
    rate = set_rate(session, step)
    session.optimizer.step()
    session.optimizer.zero_grad()
    progress.step = step + 1
    seconds = time.perf_counter() - clock
    progress.window.add(loss, len(rows), seconds)
    progress.seconds += seconds
    if progress.step % job.recipe.train.log_every == 0 or progress.step == job.total_steps:
        log_step(session, rate, norm)
        progress.window = Window()


def after_step(session: Session) -> None:
    """What is due after the step that was taken last, and was not done yet."""
    job, progress = session.job, session.progress
    if progress.step == 0:
        return
    if progress.evaluated < progress.step and is_due(session, job.recipe.eval.every):
        evaluate(session)
    if is_due(session, job.recipe.train.checkpoint_every or "epoch"):
        checkpoint(session)
    if job.compute.processes == 1:
        session.agreed_stop = session.interruption.signal
    if session.agreed_stop and progress.step < job.total_steps:
        stop(session)


def stop(session: Session) -> NoReturn:
    """Write a checkpoint, where there is anything to keep yet, and raise StoppedError that names it."""
    progress, run = session.progress, session.run
    number = session.agreed_stop or session.interruption.signal
    place = run.path
    if progress.step:
        content = checkpoint_of(session)
        place = run.stopped_checkpoint(progress.step)
        if session.is_writer:
            save_stopped(run, content)
        session.accelerator.wait_for_everyone()
    problem = Problem(
        f"stopped by {signal.Signals(number).name} after step {progress.step} of {session.job.total_steps}",
        where=str(place),
        remedy=f"to continue, give the same recipe with --resume --output {run.path}",
    )
    raise StoppedError(number, problem)


def accumulate(session: Session, rows: list[int]) -> Tensor:
    """Backward through all micro-batches of a step; returns this process's share of the step's mean loss, a scalar.

    The loss is normalized by the weight of the whole step (its rows, or its supervised tokens), so k micro-batches give
    the gradient of one large batch, and is multiplied by the number of processes because their gradients are averaged.
    """
    job, accelerator = session.job, session.accelerator
    compute = job.compute
    # Sorted, rows of a micro-batch need little padding, and every process gets short and long ones alike.
    alike = sorted(rows, key=lambda row: len(job.rows.training[row].input_ids))
    chunks = micro_batches(alike, compute.rank, compute.processes, job.recipe.train.micro_batch_size)
    weight = sum(job.objective.weight(job.rows.training[row]) for row in rows)
    total = torch.zeros((), device=compute.device)
    for index, chunk in enumerate(chunks):
        with synchronizing(session, index == len(chunks) - 1):
            loss = chunk_loss(session, chunk or rows[:1]) * (compute.processes / weight)
            if not chunk:
                loss = loss * 0
            accelerator.backward(loss)
        total += loss.detach() / compute.processes
    return total


def read(session: Session, loss: Tensor, norm: Tensor) -> tuple[float, float]:
    """The loss of all processes and the norm: the one place of a step where the host waits for the device.

    In the same exchange, a signal that one process got becomes everyone's.
    """
    own = torch.stack([loss, norm, torch.full_like(loss, session.interruption.signal)])
    if session.job.compute.processes == 1:
        values = own.tolist()
        return values[0], values[1]
    gathered: list[list[float]] = session.accelerator.gather(own[None]).tolist()
    session.agreed_stop = int(max(signal for _, _, signal in gathered))
    return sum(share for share, _, _ in gathered), gathered[0][1]


def synchronizing(session: Session, last: bool) -> AbstractContextManager[None]:
    """Gradients are reduced among processes once per step, with the last micro-batch."""
    return nullcontext() if last else session.accelerator.no_sync(session.model)


def chunk_loss(session: Session, chunk: list[int]) -> Tensor:
    """The summed loss of some rows."""
    job = session.job
    arguments = job.objective.arguments([job.rows.training[index] for index in chunk])
    with precision(job.compute.device, job.compute.dtype):
        loss: Tensor = session.model(**arguments)
    return loss


def clip(session: Session) -> Tensor:
    """Unscale and clip the gradients; returns their norm before clipping, a scalar."""
    limit = session.job.recipe.train.max_grad_norm or float("inf")
    norm: Tensor = session.accelerator.clip_grad_norm_(session.parameters.values(), limit)
    return norm


def check_finite(session: Session, step: int, loss: float, norm: float) -> None:
    """Stop before a non-finite step reaches the weights; float16's scaler skips overflowing gradients itself."""
    scaled = session.accelerator.scaler is not None
    if torch.isfinite(torch.tensor(loss)) and (scaled or torch.isfinite(torch.tensor(norm))):
        return
    bad = (name for name, p in session.parameters.items() if p.grad is not None and not p.grad.isfinite().all())
    saved = session.run.checkpoints()
    problem = Problem(
        "the loss or a gradient is no longer finite",
        where=f"step {step} of {session.job.total_steps}",
        found=f"loss {loss}, first non-finite gradient in {next(bad, 'no adapter: the loss itself')}",
        remedy=f"lower train.learning_rate; last good checkpoint: {saved[-1] if saved else 'none yet'}",
    )
    raise DivergedError(problem)


def check_reached(session: Session) -> None:
    """Stop at the first step when a gradient does not reach an adapter: it would never be trained."""
    dead = unreached(session.job.adapted.pairs)
    if dead:
        total = len(session.job.adapted.pairs)
        problem = Problem(
            f"no gradient reaches {len(dead)} of {total} adapters: they would never be trained",
            where="method.targets",
            found=", ".join(dead[:3]) + (", ..." if len(dead) > 3 else ""),
            remedy="leave modules that the task does not use out of method.targets",
        )
        raise InputError(problem)


def report_spike(session: Session, step: int, loss: float) -> None:
    """Say that a step's loss is out of line, and which module's gradient is the largest."""
    norms = {name: float(p.grad.norm()) for name, p in session.parameters.items() if p.grad is not None}
    largest = max(norms, key=norms.__getitem__)
    mean = session.progress.trend.mean
    session.reporter.note(f"step {step}: loss {loss:.4g} is far above {mean:.4g}; largest gradient in {largest}")
    append(session, {"event": "spike", "step": step, "loss": loss, "mean": mean, "largest_gradient": largest})


def set_rate(session: Session, step: int) -> float:
    """Set every group's learning rate for the 0-based `step`; returns the first group's, that of A."""
    train, total = session.job.recipe.train, session.job.total_steps
    multiplier = learning_rate_multiplier(train.schedule, step, train.warmup_steps, total)
    for group in session.optimizer.param_groups:
        group["lr"] = group["initial_lr"] * multiplier
    return train.learning_rate * multiplier


def is_due(session: Session, every: int | str) -> bool:
    """Whether something that happens every `every` steps, at the end of each epoch, or never is due now."""
    step, job = session.progress.step, session.job
    if every == "never":
        return False
    period = job.sampler.steps_per_epoch if every == "epoch" else int(every)
    return step % period == 0 or step == job.total_steps


def append(session: Session, record: dict[str, object]) -> None:
    """One more line in metrics.jsonl."""
    session.progress.lines += 1
    if session.is_writer:
        with readable_os_errors(session.run.metrics), session.run.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")


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
    speed = {"examples_per_second": record.examples_per_second, "seconds": session.progress.seconds}
    append(session, {"event": "step", "step": step, "epoch": record.epoch, **values, **speed})
    share = damping(job.recipe.method.refactor, job.compute.dtype.itemsize < 4)
    append(session, {"event": "health", "step": step, "modules": pair_health(job.adapted.pairs, share)})


def evaluate(session: Session) -> dict[str, dict[str, float]]:
    """Score every evaluation split; a new best score saves the adapter.

    Scoring may take longer than anyone waits for a stop. Alone, a process drops it at once and does it again when it
    continues; several would wait for each other.
    """
    job, progress = session.job, session.progress
    size = job.recipe.eval.batch_size
    with session.interruption.interruptible() if job.compute.processes == 1 else nullcontext():
        scores = {split.name: job.objective.score(split, size) for split in job.rows.splits}
    progress.evaluated = progress.step
    merit = job.objective.merit(scores)
    best = progress.step > 0 and (progress.best_score is None or merit > progress.best_score)
    if best:
        progress.best_step, progress.best_score = progress.step, merit
        if job.recipe.eval.select == "best":
            save_adapter(session)
    if progress.step:
        progress.history.append({"step": progress.step, "scores": scores})
    session.reporter.evaluations([EvaluationRecord(progress.step, name, own, best) for name, own in scores.items()])
    for name, own in scores.items():
        append(session, {"event": "evaluation", "step": progress.step, "split": name, **own})
    session.model.train()
    return scores


def save_adapter(session: Session) -> None:
    if session.is_writer:
        job = session.job
        write_adapter(session.run.adapter, adapter_tensors(job.base.model, job.adapted, job.saved))


def checkpoint(session: Session) -> None:
    """Save all that continuing needs."""
    content = checkpoint_of(session)
    if session.is_writer:
        save_checkpoint(session.run, content, session.job.recipe.train.keep_checkpoints)
    session.accelerator.wait_for_everyone()


def checkpoint_of(session: Session) -> Checkpoint:
    """All that continuing needs; every process contributes its generators."""
    job = session.job
    states = gather_object([random_state()]) if job.compute.processes > 1 else [random_state()]
    if session.accelerator.scaler is not None:
        session.progress.scaler = session.accelerator.scaler.state_dict()
    if session.is_writer:
        with readable_os_errors(session.run.metrics):
            sync(session.run.metrics)  # its lines are not written again when the run continues from here
    trained = {name: p.detach().cpu().contiguous() for name, p in session.parameters.items()}
    optimizer = state_tensors(job.optimizer, session.parameters)
    return Checkpoint(trained, optimizer, named_random_states(states), session.progress)
