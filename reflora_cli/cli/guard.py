"""Wrap every command: errors become one panel and an exit status, and libraries are kept quiet."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any

import typer

from reflora_cli.ground.errors import DivergedError, InputError, Problem, RefloraError, StoppedError
from reflora_cli.ground.interruption import handled, surviving_finalizers
from reflora_cli.ground.processes import is_first_process, number_of_processes, process_rank

LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "DistBackendError", "DistNetworkError",
             "DistStoreError", "gloo", "NCCL")  # fmt: skip
"""Words in the errors of a process when another process of the run has ended."""
FIRST_SPEAKS = 3.0
"""Seconds that other processes leave the first one to speak; a launcher that sees it end ends them sooner."""

JSON_ASKED_FOR: ContextVar[bool] = ContextVar("JSON_ASKED_FOR", default=False)
"""Whether the command under way was given `--json`, so that whoever reads its stdout gets an object in any case."""


@contextmanager
def answering_json(is_asked_for: bool) -> Iterator[None]:
    """Print errors inside the block as JSON too if that is asked for."""
    before = JSON_ASKED_FOR.set(is_asked_for)
    try:
        yield
    finally:
        JSON_ASKED_FOR.reset(before)


@contextmanager
def guarded() -> Iterator[None]:
    """Run a command: 0 done, 2 wrong input, 3 diverged, 130 or 143 stopped, 1 a fault of ours (with its traceback)."""
    keep_libraries_quiet()
    try:
        with stopping_cleanly():
            yield
    except RefloraError as error:
        tell(error)
        raise typer.Exit(error.exit_status) from None
    except KeyboardInterrupt:
        say("interrupted")
        answer("Interrupted", (), 130)
        raise typer.Exit(130) from None
    except Terminated as stopped:
        say("terminated")
        answer("Terminated", (), 128 + stopped.signal)
        raise typer.Exit(128 + stopped.signal) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if number_of_processes() > 1 and any(word in repr(error) for word in LOST_PEER):
            say(f"process {process_rank()}: another process has ended, see its message")
            raise typer.Exit(1) from None
        if type(error).__name__ == "OutOfMemoryError":
            tell(out_of_memory(error))
            raise typer.Exit(InputError.exit_status) from None
        say(traceback.format_exc())
        say("This is a fault of reflora, not of your input: please report it with the lines above.")
        answer("A fault of reflora", (Problem(f"{type(error).__name__}: {error}"),), 1)
        raise typer.Exit(1) from None


def tell(error: RefloraError) -> None:
    """Show an error, once if all processes met the same one.

    An error that all processes agree on is shown by the first one. For other errors, the first process may have none,
    or the same: then the launcher ends the others while they wait.
    """
    from reflora_cli.console.output import show_error

    if is_first_process():
        show_error(error.title, str(error))
        answer(error.title, error.problems, error.exit_status)
    elif not isinstance(error, StoppedError | DivergedError):
        time.sleep(FIRST_SPEAKS)
        if not error.is_shared:
            show_error(f"{error.title} (process {process_rank()})", str(error))


def answer(title: str, problems: Sequence[Problem], status: int) -> None:
    """Print an error as one JSON object on stdout, where JSON was asked for; the first process speaks for all."""
    if not JSON_ASKED_FOR.get() or not is_first_process():
        return
    from reflora_cli.console.output import print_json

    print_json(json_error(title, problems, status))


def json_error(title: str, problems: Sequence[Problem], status: int) -> dict[str, Any]:
    """Return an error as JSON has it."""
    return {"error": {"title": title, "problems": [asdict(own) for own in problems], "status": status}}


def out_of_memory(error: Exception) -> InputError:
    """Return the message for a GPU that is full."""
    remedy = (
        "lower train.micro_batch_size or task.max_length, or set train.gradient_checkpointing, model.quantization or "
        "model.streaming; `reflora plan` says what they save"
    )
    return InputError(Problem("the GPU's memory is full", found=str(error).partition(". ")[0], remedy=remedy))


def say(text: str) -> None:
    from reflora_cli.console.stream import say

    say(text)


def refuse_several_processes(command: str) -> None:
    """Raises InputError under a launcher of several processes, for a command that only one process can run."""
    if number_of_processes() > 1:
        what = f"{command} runs in one process only"
        raise InputError(
            Problem(what, found=f"{number_of_processes()} processes", remedy="run it without the launcher")
        )


class Terminated(BaseException):
    """SIGTERM or SIGHUP as an exception; it is no Exception, so that only clean-up code catches it on its way."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind like an interrupt, so that no half-written files stay.

    Only the main thread can install handlers. Ignored signals, as SIGHUP under nohup, stay ignored.
    """
    came = signal.SIGTERM

    def stop(number: int, _: object) -> None:
        nonlocal came
        came = signal.Signals(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once
        raise Terminated(number)

    def again() -> int:
        signal.signal(came, stop)
        return came

    with (
        handled((signal.SIGTERM, signal.SIGHUP), stop),
        surviving_finalizers({Terminated: again, KeyboardInterrupt: lambda: signal.SIGINT}),
    ):
        yield


def keep_libraries_quiet() -> None:
    """Silence advice and deprecations of libraries, which are not for this command's user, and bars without a
    terminal.
    """
    from reflora_cli.console.stream import is_terminal

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not is_terminal() or not is_first_process():
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
