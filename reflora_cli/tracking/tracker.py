"""Define what a tracker is, and hold those of a run so that none of them can stop it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """A program that keeps numbers by step. Whatever its methods raise ends its part in the run, and nothing else."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Take in the values after `step` steps, by name."""

    def close(self, status: int) -> None:
        """Write what is left. status: the exit status of the run, 0 where it ended well."""


@dataclass(frozen=True)
class Tracked:
    """What a tracker should know of a run.

    path: the run directory, into which all files go. settings: the recipe as plain values. step: the last one that is
    kept of a run that is continued, whose later ones are logged again; None for a run that begins.
    """

    path: Path
    settings: Mapping[str, Any]
    step: int | None = None

    @property
    def name(self) -> str:
        return self.path.resolve().name


class Trackers:
    """The trackers of a run by name. note: what is told when one of them fails, which is then left out."""

    def __init__(self, trackers: Mapping[str, Tracker], note: Callable[[str], None]) -> None:
        self._trackers, self._note = dict(trackers), note

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Give the values to all trackers, if there are any."""
        if values:
            self._each(lambda tracker: tracker.log(values, step))

    def close(self, status: int) -> None:
        self._each(lambda tracker: tracker.close(status))

    def _each(self, act: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                act(tracker)
            except Exception as error:  # a library of others, perhaps behind a network: training goes on
                del self._trackers[name]
                self._note(failed(name, error))


def failed(name: str, error: Exception) -> str:
    """Return what is told of a tracker that failed."""
    return f"tracker {name} failed; the run continues without it: {error!r}"


UNTRACKED = Trackers({}, lambda _: None)
"""No tracker at all."""
