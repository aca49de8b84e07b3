"""The errors a user can meet, each with its exit status.

An error carries one or more `Problem`s: what is wrong, where, what was found, what was expected, and how to correct it.
The command line prints them in one panel; nothing else in the package prints or exits.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong. Only `what` is required; empty fields are not shown."""

    what: str
    where: str = ""
    found: str = ""
    expected: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        fields = (("where", self.where), ("found", self.found), ("expected", self.expected), ("remedy", self.remedy))
        return "\n".join([self.what, *(f"  {label}: {text}" for label, text in fields if text)])


class RefloraError(Exception):
    """The base of the errors below; it is never raised itself.

    is_shared: the error of one of several processes was sent to all of them, so that one message is enough.
    """

    is_shared = False
    exit_status: int
    title: str

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class InputError(RefloraError):
    """The recipe, a path, the data or an adapter is wrong: something the user can correct."""

    exit_status = 2
    title = "Wrong input"


class DivergedError(RefloraError):
    """The loss or a gradient stopped being finite."""

    exit_status = 3
    title = "Training diverged"


class StoppedError(RefloraError):
    """A signal stopped a run that can be continued; the exit status is 128 and the signal's number, as in shells."""

    title = "Stopped"

    def __init__(self, signal: int, *problems: Problem) -> None:
        super().__init__(*problems)
        self.exit_status = 128 + signal


class VerificationError(RefloraError):
    """Something was written that does not compute what it should: a fault of ours."""

    exit_status = 1
    title = "Verification failed"


def check_argument(holds: bool, name: str, value: object, expected: str) -> None:
    """Raises InputError for an argument of a function that is out of range."""
    if not holds:
        raise InputError(Problem("an argument is out of range", name, repr(value), expected))


MOST_NAMED = 20
"""The most known names that one message lists."""


def near(name: str, known: Iterable[str]) -> str:
    """Return the question whether a known name was meant; empty if none is like `name`."""
    names = sorted(set(known))
    matches = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    matches = matches or [own for own in names if len(name) >= 3 and own.startswith(name)]
    return f"did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""


def nearest(name: str, known: Iterable[str], listing: str = "") -> str:
    """Return a remedy with the known names most like `name`. When none is near it has all of them, or of many the first
    ones, or the command that lists them. listing: that command, if there is one.
    """
    names = sorted(set(known))
    if question := near(name, names):
        return question
    if len(names) <= MOST_NAMED:
        return f"known: {', '.join(names)}" if names else ""
    if listing:
        return f"`{listing}` shows the known ones"
    return f"known: {', '.join(names[:MOST_NAMED])} and {len(names) - MOST_NAMED} more"
