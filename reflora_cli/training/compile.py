"""Compile a run's model before its first step, or say why that cannot be done and train eagerly.

Compiling is tried on the first micro-batch of the run's first step, forward and backward, whose outcome is dropped: an
error costs nothing but time, the random numbers that the run draws stay as they are, and all processes agree before
any of them waits for the others. A run that continues tries the same micro-batch, so that it gets the same code.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from reflora_cli.model.precision import precision
from reflora_cli.runs.together import of_all
from reflora_cli.training.checkpoint import named_random_states, random_state, restore_random_state
from reflora_cli.training.compile_blocks import blocks_of, compiled, reason
from reflora_cli.training.session import Session
from reflora_cli.training.step import chunks_of


@contextmanager
def compiling(session: Session, watched: bool) -> Iterator[None]:
    """Let the run's blocks be compiled, if its recipe asks for it. watched: whether every module is looked at."""
    mode, blocks = session.job.recipe.train.compile, blocks_of(session.job.base.model)
    if mode is False:
        yield
        return
    if watched or not blocks:
        why = "--detect-anomaly looks at every module" if watched else "the model has no repeated blocks"
        give_up(session, why)
        yield
        return
    kinds = ", ".join(sorted({type(block).__name__ for block in blocks}))
    session.reporter.note(f"compiling {len(blocks)} blocks ({kinds}): this takes a while, once")
    before = session.progress.compile_seconds
    with compiled(blocks, "default" if mode is True else mode, session.compiling):
        why = first_reason(session, rehearse(session))
        if not why:
            session.reporter.note(f"compiled in {session.progress.compile_seconds - before:.0f} s")
            yield
            return
    give_up(session, why)
    yield


def give_up(session: Session, why: str) -> None:
    """Say why nothing is compiled."""
    session.not_compiled = why
    session.reporter.note(f"the model is not compiled, and trains eagerly: {why}")


def rehearse(session: Session) -> str:
    """Compile what the first micro-batch of the run needs; returns why that failed, or nothing. Model, gradients and
    generators stay as they are.
    """
    job, clock, before = session.job, time.perf_counter(), named_random_states([random_state()])
    was_training = job.objective.loss_module.training
    job.objective.loss_module.train()
    why = ""
    try:
        with precision(job.compute.device, job.compute.dtype), session.saving():
            loss = job.objective.loss_module(**first_arguments(session))
        # Not `backward`: it would fill gradients, and wake what reduces them over processes.
        torch.autograd.grad(loss, list(session.parameters.values()), allow_unused=True)
    except Exception as error:  # whatever it is, an eager step shows whether it is the compiler's
        why = reason(error)
    finally:
        job.objective.loss_module.train(was_training)
        restore_random_state(before, 0)
    session.progress.compile_seconds += time.perf_counter() - clock
    session.compiling.take()
    return next(iter(session.compiling.untold()), why)


def first_arguments(session: Session) -> dict[str, Any]:
    """Return the arguments of this process's first micro-batch in the run's first step."""
    job = session.job
    rows = job.sampler.step_rows(0)
    return job.objective.step_arguments([job.rows.training[index] for index in chunks_of(job, rows)[0] or rows[:1]])


def first_reason(session: Session, own: str) -> str:
    """Return the first reason of any process not to compile: all of them compile, or none."""
    return next((why for why in of_all(session.job.compute, [own]) if why), "")
