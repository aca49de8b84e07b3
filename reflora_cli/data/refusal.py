"""Make the errors for files that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from reflora_cli.ground.errors import InputError, Problem


def refuse(what: str, where: str, found: str, expected: str, remedy: str = "") -> NoReturn:
    # Called where a library's own error is at hand, which says no more to the user: not chained.
    raise InputError(Problem(what, where, found, expected, remedy)) from None


def check_once(names: Sequence[str], where: str) -> None:
    """Raises InputError for a column that is named twice."""
    if repeated := [name for name in names if names.count(name) > 1]:
        refuse("a column is named twice", where, repr(repeated[0]), "a different name for each column")
