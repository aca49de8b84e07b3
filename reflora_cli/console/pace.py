"""Tell how far a piece of work is that may take seconds or an hour."""

from __future__ import annotations

import time
from typing import final

from reflora_cli.console.reporter import Reporter

SECONDS = 10.0
"""The least time between two notes."""


@final
class Pace:
    """A function that notes how much is done: nothing in the first ten seconds, then a line at most every ten."""

    def __init__(self, reporter: Reporter, what: str) -> None:
        self.reporter, self.what = reporter, what
        self.last = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` of `total` parts are done, if it is time."""
        if time.monotonic() - self.last >= SECONDS:
            self.reporter.note(f"{self.what}: {done} of {total} modules")
            self.last = time.monotonic()
