"""Programs in processes of their own, forked from one that has imported what they need.

A new interpreter imports torch and transformers for longer than the small runs of tests take. What depends on how an
interpreter begins is started as one: `tests/cli/test_startup.py`, `test_usage.py` and others do.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from tests.robustness.runs import PRELOADED

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(list(PRELOADED))
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Forked:
    """A module that runs as `python -m MODULE ARGUMENTS` does, in the directory of this process.

    environment: all variables of the process. stderr: its standard error, a pipe. printed: what it has written to its
    standard output, when it has ended.
    """

    def __init__(self, module: str, *arguments: object, environment: Mapping[str, str] | None = None) -> None:
        reading, writing = FORKSERVER.Pipe(duplex=False)
        self.stderr: IO[str] = os.fdopen(os.dup(reading.fileno()), encoding="utf-8", errors="replace")
        self.printed = ""
        descriptor, self.output = tempfile.mkstemp()
        os.close(descriptor)
        surroundings = (os.getcwd(), {**os.environ} if environment is None else dict(environment))
        words = [module, *map(str, arguments)]
        self.process = FORKSERVER.Process(target=be, args=(words, surroundings, writing, self.output))
        self.process.start()
        reading.close()
        writing.close()

    def poll(self) -> int | None:
        """The exit status, negative for a signal that ended the process; None while it runs."""
        return self.process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def wait(self, seconds: float) -> int:
        """The exit status. Raises TimeoutError, and kills the process, if it does not end in time."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"{self.process} ran longer than {seconds} s")
        output = Path(self.output)
        self.printed = output.read_text(encoding="utf-8", errors="replace")
        output.unlink()
        self.stderr.close()
        return self.process.exitcode

    def ended(self, seconds: float = 600) -> tuple[int, str, str]:
        """The exit status, what was printed and what was said on standard error; that must be open."""
        said = self.stderr.read()
        return self.wait(seconds), self.printed, said


def be(words: list[str], surroundings: tuple[str, Mapping[str, str]], said: Connection, printed: str) -> None:
    """Be the process: its signals do what they do in a program that a terminal starts."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    directory, environment = surroundings
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(printed, os.O_WRONLY), 1)
    os.dup2(said.fileno(), 2)
    said.close()
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__")
