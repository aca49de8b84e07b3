"""Tell in plain lines how far a piece of work is that may take seconds or an hour."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import final

from reflora_cli.console.reporter import Score, Work, unscored

FIRST, SECONDS = 2.0, 10.0
"""The seconds before the first line, and the least time between two."""


@final
class Pace:
    """A function that tells how much of some work is done: nothing in the first two seconds, then a line at most every
    ten, with the speed, the time left and the score so far.
    """

    def __init__(self, work: Work, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.work, self.say, self.clock = work, say, clock
        self.began = clock()
        self.due = self.began + FIRST

    def __call__(self, done: int, score: Score = unscored) -> None:
        now, work = self.clock(), self.work
        if now < self.due or done >= work.total:
            return
        self.due = now + SECONDS
        speed = (done - work.before) / (now - self.began)
        left = [f"{duration((work.total - done) / speed)} left"] if speed else []
        pace = [f"{done:,} of {work.total:,} {work.unit}", f"{speed:,.1f} {work.unit}/s", *left, score()]
        self.say(f"{work.what}: {', '.join(filter(None, pace))}")


def duration(seconds: float) -> str:
    """Return a length of time in the largest unit of which there are at least two."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
