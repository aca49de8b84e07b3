"""SIGINT, SIGTERM and SIGHUP during training: noted, and obeyed where the run can be continued from.

The first signal lets the step under way end; what is interruptible, such as an evaluation, ends at once. A second
signal ends the process there and then.

What a signal's handler raises, Python drops where a finalizer (`__del__`) happens to run: `surviving_finalizers` has
the signal sent again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_REQUEST = 0.5
"""Seconds within which a second signal is the first one again: Ctrl-C reaches a launcher's processes twice."""
MOMENT = 0.01
"""Seconds: longer than almost any finalizer."""


class Aborted(BaseException):
    """Unwinds what is interruptible; not an Exception, so that nothing but its own handler catches it."""


@dataclass
class Interruption:
    """Whether the user asked to stop. signal: by which signal, 0 as long as nobody has."""

    signal: int = 0
    _since: float = 0.0
    _interruptible: bool = False

    def note(self, number: int, _: FrameType | None) -> None:
        """The signals' handler."""
        if self.signal and time.monotonic() - self._since > SAME_REQUEST:
            os._exit(128 + number)
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
        if self._interruptible:
            self._interruptible = False
            raise Aborted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """What need not be finished before stopping: a signal raises Aborted here, at once."""
        try:
            with surviving_finalizers({Aborted: self._again}):
                self._interruptible = True
                if self.signal:
                    raise Aborted
                yield
        finally:
            self._interruptible = False

    def _again(self) -> int:
        self._interruptible = True
        return self.signal


@contextmanager
def surviving_finalizers(signals: Mapping[type[BaseException], Callable[[], int]]) -> Iterator[None]:
    """Where a finalizer swallows one of these exceptions, send the signal that it stands for again, a moment later."""
    before = sys.unraisablehook

    def hook(lost: Any) -> None:
        if lost.exc_type in signals:
            again = threading.Timer(MOMENT, os.kill, (os.getpid(), signals[lost.exc_type]()))
            again.daemon = True
            again.start()
        else:
            before(lost)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Note signals instead of dying of them."""
    interruption = Interruption()
    with handled(SIGNALS, interruption.note):
        yield interruption


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let signals end the process, as they do by default, while it waits for others in a call that Python cannot leave.

    Only for where nothing can be lost.
    """
    with handled(SIGNALS, signal.SIG_DFL):
        yield


@contextmanager
def handled(
    signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Another handler for signals, but for those that are ignored, as SIGHUP is under nohup.

    Only the main thread can ask for it; elsewhere nothing is changed.
    """
    here = threading.current_thread() is threading.main_thread()
    wanted = [number for number in signals if here and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
