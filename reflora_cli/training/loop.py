"""Run the training loop: steps, with the evaluations and checkpoints that are due between them."""

from __future__ import annotations

import math
import signal
import time
from contextlib import nullcontext
from typing import NoReturn

from accelerate.utils import gather_object

from reflora_cli.console.reporter import EvaluationRecord
from reflora_cli.ground.atomic import readable_os_errors, sync
from reflora_cli.ground.errors import DivergedError, Problem, StoppedError
from reflora_cli.ground.interruption import Aborted
from reflora_cli.ground.paths import is_file
from reflora_cli.objectives.objective import Scores
from reflora_cli.objectives.watched import watched_tally
from reflora_cli.training.checkpoint import Checkpoint, named_random_states, random_state, save_checkpoint, save_stopped
from reflora_cli.training.session import Session, append, current_adapter, is_due, save_adapter
from reflora_cli.training.step import train_step


def run_steps(session: Session) -> None:
    """Take all remaining optimizer steps, with their logging, evaluations and checkpoints.

    Raises StoppedError after a signal, once all that is needed to continue is on the disk.
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


def after_step(session: Session) -> None:
    """Do what is due after the last step and was not done yet."""
    job, progress = session.job, session.progress
    if progress.step == 0:
        return
    if progress.evaluated < progress.step and is_due(session, job.recipe.eval.every):
        evaluate(session)
    if is_due(session, job.recipe.train.checkpoint_every or "epoch"):
        checkpoint(session)
    if session.processes == 1:
        session.agreed_stop = session.interruption.signal
    if session.agreed_stop and progress.step < job.total_steps:
        stop(session)


def stop(session: Session) -> NoReturn:
    """Write a checkpoint, if there is anything to keep yet, and raise StoppedError that names it."""
    progress, run = session.progress, session.run
    number = session.agreed_stop or session.interruption.signal
    place = run.path
    if progress.step:
        place = run.stopped_checkpoint(progress.step)
        checkpoint_between(session)
    problem = Problem(
        f"stopped by {signal.Signals(number).name} after step {progress.step} of {session.job.total_steps}",
        where=str(place),
        remedy=f"to continue, give the same recipe with --resume --output {run.path}",
    )
    raise StoppedError(number, problem)


def evaluate(session: Session) -> dict[str, dict[str, float]]:
    """Score every evaluation split; a new best score saves the adapter. Raises DivergedError for a score that is no
    number.

    Scoring may take longer than anyone waits for a stop. A single process drops it at once and repeats it when it
    continues. Several processes would wait for each other, so everything needed to continue is written before they
    begin.
    """
    job, progress = session.job, session.progress
    size, clock = job.recipe.eval.batch_size, time.perf_counter()
    if session.processes > 1 and progress.step:
        checkpoint_between(session)
    with session.interruption.interruptible() if session.processes == 1 else nullcontext():
        tallies = {split.name: watched_tally(job.objective, split, size, session.reporter) for split in job.rows.splits}
        scores = {name: own.scores() for name, own in tallies.items()}
        samples = {split.name: job.objective.samples(split) for split in job.rows.splits}
    check_scores(session, scores)
    progress.evaluated = progress.step
    progress.evaluation_seconds += time.perf_counter() - clock
    merit = job.objective.merit(scores)
    best = progress.step > 0 and (progress.best_score is None or merit > progress.best_score)
    if best:
        progress.best_step, progress.best_score = progress.step, merit
        if job.recipe.eval.select == "best":
            session.best = current_adapter(session)
            save_adapter(session, session.best)
    if best or job.recipe.eval.select == "last":
        progress.report = {name: report for name, own in tallies.items() if (report := own.report())}
    if progress.step:
        progress.history.append({"step": progress.step, "scores": {name: dict(own) for name, own in scores.items()}})
    session.reporter.evaluations([EvaluationRecord(progress.step, name, own, best) for name, own in scores.items()])
    for name, own in scores.items():
        append(session, {"event": "evaluation", "step": progress.step, "split": name, **own})
        for sample in samples[name]:
            session.reporter.note(f"sample: {sample.line()}")
            append(session, {"event": "sample", "step": progress.step, "split": name, **sample.record()})
    session.model.train()
    return scores


def check_scores(session: Session, scores: Scores) -> None:
    """Raises DivergedError for a score that is not finite, with which no adapter could be compared."""
    bad = [f"{name} of {split}: {value}" for split, own in scores.items() for name, value in own.items()
           if not math.isfinite(value)]  # fmt: skip
    if bad:
        where = f"evaluation after step {session.progress.step} of {session.job.total_steps}"
        remedy = "lower train.learning_rate; --detect-anomaly finds the first operation that is not finite"
        raise DivergedError(Problem("a score is not finite", where, ", ".join(bad[:3]), remedy=remedy))


def checkpoint_between(session: Session) -> None:
    """Save what is needed to continue, to be kept until the next checkpoint that is due."""
    content = checkpoint_of(session)
    if session.is_writer:
        save_stopped(session.run, content)
    session.accelerator.wait_for_everyone()


def checkpoint(session: Session) -> None:
    """Save all that is needed to continue."""
    content = checkpoint_of(session)
    if session.is_writer:
        save_checkpoint(session.run, content, session.job.recipe.train.keep_checkpoints)
    session.accelerator.wait_for_everyone()


def checkpoint_of(session: Session) -> Checkpoint:
    """Return all that is needed to continue; every process contributes its generators."""
    job = session.job
    states = gather_object([random_state()]) if session.processes > 1 else [random_state()]
    if session.accelerator.scaler is not None:
        session.progress.scaler = session.accelerator.scaler.state_dict()
    if session.is_writer and is_file(session.run.metrics):  # a user who removed the log loses nothing else
        with readable_os_errors(session.run.metrics):
            sync(session.run.metrics)  # its lines are not written again when the run continues from here
    kept = {**session.parameters, **job.adapted.constants}
    trained = {name: own.detach().cpu().contiguous() for name, own in kept.items()}
    optimizer = job.optimizer.tensors(session.parameters)
    return Checkpoint(trained, optimizer, named_random_states(states), session.best, session.progress)
