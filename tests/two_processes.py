"""Commands of two processes under gloo, forked from a process that has imported what they need.

torchrun starts three interpreters that import torch, which takes longer than the small runs of tests. It is tested
itself by `tests/cli/test_processes.py` and `test_shared_evaluation.py`.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.forked import FORKSERVER
from tests.robustness.pairs import ended, started

LONGEST_SECONDS = 180


def run_by_two(*arguments: object) -> tuple[str, str]:
    """Run a command of reflora in two processes, with the variables of torchrun; their standard output and error.

    Raises AssertionError, with what they said, if one does not end well.
    """
    with tempfile.TemporaryDirectory() as place:
        log, output = Path(place) / "log", Path(place) / "output"
        pair = FORKSERVER.Process(target=lead, args=([str(argument) for argument in arguments], log, output))
        pair.start()
        pair.join(LONGEST_SECONDS)
        if pair.is_alive() and pair.pid is not None:
            os.killpg(pair.pid, signal.SIGKILL)
            pair.join()
        said = log.read_text(errors="replace")
        assert pair.exitcode == 0, said[-3000:]
        return output.read_text(), said


def lead(arguments: list[str], log: Path, output: Path) -> None:
    """Fork both processes, in a group of their own, and end when they have ended."""
    os.setsid()
    sys.exit(any(ended(started(arguments, log, output))))
