"""Commands of two processes under gloo, forked from a process that has imported what they need.

torchrun starts two interpreters that import torch, which takes longer than the small runs of tests. It is tested itself
by `tests/cli/test_processes.py`, `test_language_models.py` and `test_shared_evaluation.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from pathlib import Path

from tests.robustness.pairs import ended, started
from tests.robustness.runs import PRELOADED

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(list(PRELOADED))
LONGEST_SECONDS = 180


def run_by_two(*arguments: object) -> None:
    """Run a command of reflora in two processes, with the variables of torchrun, until both have ended well.

    Raises AssertionError, with what they said, if one does not.
    """
    with tempfile.TemporaryDirectory() as place:
        log = Path(place) / "log"
        pair = FORKSERVER.Process(target=lead, args=([str(argument) for argument in arguments], log))
        pair.start()
        pair.join(LONGEST_SECONDS)
        if pair.is_alive() and pair.pid is not None:
            os.killpg(pair.pid, signal.SIGKILL)
            pair.join()
        assert pair.exitcode == 0, log.read_text(errors="replace")[-3000:]


def lead(arguments: list[str], log: Path) -> None:
    """Fork both processes, in a group of their own, and end when they have ended."""
    os.setsid()
    sys.exit(any(ended(started(arguments, log))))
