"""Do one run of a comparison: train it or continue it, then score it on fresh rows.

This is what `reflora train` and `reflora eval` do; whoever starts it gives it a process of its own.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import sleep

import transformers.modeling_utils  # noqa: F401  what every run needs is there before its process begins

from reflora_cli.comparing.fresh import FreshRows, score_fresh
from reflora_cli.console.plain import PlainReporter
from reflora_cli.ground.atomic import locked, write_json
from reflora_cli.ground.errors import InputError, RefloraError, StoppedError
from reflora_cli.ground.paths import is_directory, is_file
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.training.train import train

PATIENCE = 60
"""Seconds that a run waits for a process of a comparison that was killed to leave its directory."""


@dataclass(frozen=True)
class Assignment:
    """What is to be done for one run. run: its directory. fresh: the rows to score it on afterwards, and fresh_place
    the file for the scores. log: the file for what it tells. failure: the file that says why it has failed, if it has.
    """

    recipe: Recipe
    run: Path
    log: Path
    failure: Path
    fresh_place: Path
    fresh: FreshRows | None


def carry_out(assignment: Assignment) -> int:
    """Do the work and return an exit status as that of `reflora train`. What it tells goes to the assignment's log."""
    with told_to(assignment.log):
        try:
            work(assignment)
        except KeyboardInterrupt:
            return 130
        except StoppedError as error:
            return error.exit_status
        except RefloraError as error:
            return failed(assignment, error.exit_status, str(error))
        except Exception:
            return failed(assignment, 1, traceback.format_exc())
    return 0


def work(assignment: Assignment) -> None:
    """Train or continue the run, and score it. Raises what `train` raises."""
    reporter = PlainReporter()
    run = RunDirectory(assignment.run)
    wait_until_free(run.path)
    train(assignment.recipe, run.path, is_file(run.recipe), reporter)
    if assignment.fresh is not None and not is_file(assignment.fresh_place):
        score_fresh(run.path, assignment.fresh, assignment.fresh_place, reporter)


def wait_until_free(run: Path) -> None:
    """Wait while another process writes to the run. Raises InputError when that takes too long."""
    for _ in range(PATIENCE):
        if not is_directory(run):
            return
        try:
            with locked(run):
                return
        except InputError:
            sleep(1)


def failed(assignment: Assignment, status: int, message: str) -> int:
    """Say why the run has failed, in its log and in a file that the comparison reads; returns the status."""
    PlainReporter().note(message)
    write_json(assignment.failure, {"exit_status": status, "message": message})
    return status


@contextmanager
def told_to(log: Path) -> Iterator[None]:
    """Let this process write at the end of a file what it would write on its standard output and error."""
    log.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    kept = [os.dup(number) for number in (1, 2)]
    for number in (1, 2):
        os.dup2(descriptor, number)
    os.close(descriptor)
    try:
        yield
    finally:
        for number, own in zip((1, 2), kept, strict=True):
            os.dup2(own, number)
            os.close(own)
