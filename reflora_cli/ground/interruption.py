"""Note SIGINT, SIGTERM and SIGHUP during training, and act on them at a place from which the run can be continued.

The first signal lets the step under way end; what is interruptible, such as an evaluation, ends at once. A second
signal ends the process immediately.

Python drops an exception that a signal's handler raises while a finalizer (`__del__`) runs; `surviving_finalizers` has
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
"""Seconds within which a second signal counts as the first one: Ctrl-C reaches a launcher's processes twice."""
MOMENT = 0.01
"""Seconds until the signal is sent again, so that the finalizer has ended by then; if not, it is sent once more."""


class Aborted(BaseException):
    """Raised to end interruptible work; it is not an Exception, so that only its own handler catches it."""


@dataclass
class Interruption:
    """Whether the user asked to stop. signal: the number of the signal that asked for it, or 0."""

    signal: int = 0
    _since: float = 0.0
    _interruptible: bool = False
    _is_sent_again: bool = False

    def note(self, number: int, _: FrameType | None) -> None:
        """Handle a signal: note the first one, and end the process on a second one."""
        if self.signal and not self._is_sent_again and time.monotonic() - self._since > SAME_REQUEST:
            os._exit(128 + number)
        self._is_sent_again = False
        if not self.signal:
            self.signal, self._since = number, time.monotonic()
        if self._interruptible:
            self._interruptible = False
            raise Aborted

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Run something that need not be finished before stopping: a signal raises Aborted in it, at once."""
        try:
            with surviving_finalizers({Aborted: self._again}):
                self._interruptible = True
                if self.signal:
                    raise Aborted
                yield
        finally:
            self._interruptible = False

    def _again(self) -> int:
        self._interruptible = self._is_sent_again = True
        return self.signal


@contextmanager
def surviving_finalizers(signals: Mapping[type[BaseException], Callable[[], int]]) -> Iterator[None]:
    """Send the signal again, a moment later, if a finalizer swallows one of these exceptions."""
    before, is_noting = sys.unraisablehook, False

    def hook(lost: Any) -> None:
        nonlocal is_noting
        if lost.exc_type not in signals:
            before(lost)
            return
        is_noting = True
        try:
            threading.Thread(target=send_again, args=(signals[lost.exc_type](),), daemon=True).start()
        finally:
            is_noting = False

    def send_again(number: int) -> None:
        time.sleep(MOMENT)
        while is_noting:  # Python drops what is raised in the hook, too, and calls it for that no second time
            time.sleep(MOMENT)
        os.kill(os.getpid(), number)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Note signals instead of ending the process."""
    interruption = Interruption()
    with handled(SIGNALS, interruption.note):
        yield interruption


@contextmanager
def ending_at_once() -> Iterator[None]:
    """Let signals end the process, as by default, while it waits for others in a call that Python cannot leave.

    Use it only where nothing can be lost.
    """
    with handled(SIGNALS, signal.SIG_DFL):
        yield


@contextmanager
def handled(
    signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None] | signal.Handlers
) -> Iterator[None]:
    """Install another handler for signals, except for ignored ones, as SIGHUP is under nohup.

    Only the main thread can install handlers; elsewhere nothing is changed.
    """
    here = threading.current_thread() is threading.main_thread()
    wanted = [number for number in signals if here and signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in wanted}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
