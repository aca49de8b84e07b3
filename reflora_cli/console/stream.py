"""Write lines on standard error, which may be closed while a command runs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


class LastingStream:
    """A stream that writes to standard error and ignores failures, so that a run goes on when its terminal was closed
    or the program that reads its output has ended.
    """

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


def say(text: str) -> None:
    """Write a text on standard error, as plain lines."""
    print(text, file=LastingStream(), flush=True)


def is_terminal() -> bool:
    """Return whether standard error is a terminal that shows colours and moves its cursor."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
