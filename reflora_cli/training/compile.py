"""Compile a run's model before its first step, or say why that cannot be done and train eagerly.

Compiling is tried on the first micro-batch of the run's first step, forward and backward, whose outcome is dropped: an
error costs nothing but time, the random numbers that the run draws stay as they are, and all processes agree before
any of them waits for the others. A run that continues tries the same micro-batch, so that it gets the same code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from reflora_cli.model.blocks import named_blocks
from reflora_cli.model.precision import precision
from reflora_cli.runs.together import of_all
from reflora_cli.training.checkpoint import named_random_states, random_state, restore_random_state
from reflora_cli.training.compile_blocks import compiled, missing_compiler, reason
from reflora_cli.training.session import Session
from reflora_cli.training.step import chunks_of

EVERY = 30.0
"""The seconds between two lines that say that compiling goes on."""


@contextmanager
def compiling(session: Session, watched: bool) -> Iterator[None]:
    """Let the run's blocks be compiled, if its recipe asks for it. watched: whether every module is looked at."""
    if session.job.recipe.train.compile is False:
        yield
        return
    with ExitStack() as stack:
        if why := first_reason(session, hindrance(session, watched)) or begin(session, stack):
            stack.close()
            session.not_compiled = why
            session.reporter.note(f"the model is not compiled and runs eagerly: {why}")
        yield


def hindrance(session: Session, watched: bool) -> str:
    """Return why it is not even tried to compile; nothing where it is. watched: as in `compiling`."""
    if watched:
        return "--detect-anomaly needs every module uncompiled"
    if not named_blocks(session.job.base.model):
        return "the model has no repeated blocks"
    return missing_compiler(session.job.compute.device)


def begin(session: Session, stack: ExitStack) -> str:
    """Let blocks be compiled until the stack is closed, and try whether they can be; returns why any process cannot,
    or nothing.
    """
    asked, before = session.job.recipe.train.compile, session.progress.compile_seconds
    blocks = list(named_blocks(session.job.base.model).values())
    kinds = ", ".join(sorted({type(block).__name__ for block in blocks}))
    session.reporter.note(
        f"compiling {len(blocks)} blocks ({kinds}) before the first step: this takes a minute or more"
    )
    try:
        stack.enter_context(compiled(blocks, asked if isinstance(asked, str) else "default", session.compiling))
    except (ImportError, AttributeError) as error:  # parts of the compiler whose names torch does not promise to keep
        own = reason(error)
    else:
        with telling_time(session.reporter.note):
            own = rehearse(session)
    why = first_reason(session, own)
    if not why:
        session.reporter.note(f"compiled in {session.progress.compile_seconds - before:.0f} s")
    return why


@contextmanager
def telling_time(say: Callable[[str], None], every: float = EVERY) -> Iterator[None]:
    """Say every so many seconds that compiling goes on; how far it is, torch does not tell."""
    ended, begin = threading.Event(), time.perf_counter()

    def tell() -> None:
        while not ended.wait(every):
            say(f"still compiling, after {time.perf_counter() - begin:.0f} s")

    thread = threading.Thread(target=tell, name="compiling", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
