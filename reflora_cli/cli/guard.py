"""What all commands share: errors become one panel and an exit status, libraries are kept quiet."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from reflora_cli.errors import RefloraError
from reflora_cli.interruption import surviving_finalizers


@contextmanager
def guarded() -> Iterator[None]:
    """Run a command: 0 done, 2 wrong input, 3 diverged, 130 or 143 stopped, 1 a fault of ours (with its traceback)."""
    keep_libraries_quiet()
    try:
        with stopping_cleanly():
            yield
    except RefloraError as error:
        from reflora_cli.console import show_error

        show_error(error)
        raise typer.Exit(error.exit_status) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    except Terminated:
        typer.echo("terminated", err=True)
        raise typer.Exit(143) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception:
        traceback.print_exc(file=sys.stderr)
        typer.echo("This is a fault of reflora, not of your input: please report it with the lines above.", err=True)
        raise typer.Exit(1) from None


class Terminated(BaseException):
    """SIGTERM: not an Exception, so that nothing but cleaning up catches it on its way."""


@contextmanager
def stopping_cleanly() -> Iterator[None]:
    """Let SIGTERM unwind like an interrupt, so that nothing half-written stays; only the main thread can ask for it."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends at once
        raise Terminated

    def again() -> int:
        signal.signal(signal.SIGTERM, stop)
        return signal.SIGTERM

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        with surviving_finalizers({Terminated: again, KeyboardInterrupt: lambda: signal.SIGINT}):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def keep_libraries_quiet() -> None:
    """Progress bars, advice and deprecations of libraries are not for the user of this command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
