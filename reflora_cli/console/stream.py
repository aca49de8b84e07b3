"""Write lines on standard error, which may be closed while a command runs."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any


class LastingStream:
    """Standard error that may fail: a run goes on when its terminal was closed or its reader has ended."""

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
    """Write plain lines on standard error."""
    print(text, file=LastingStream(), flush=True)


def is_terminal() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
