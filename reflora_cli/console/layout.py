"""Fit tables and lines into a terminal's width: names are shortened, texts wrapped, and numbers kept whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"[-+]?[\d,]*\.?\d*(e[-+]?\d+)?%?|nan|-?inf")
ELLIPSIS = "\u2026"
NARROWEST = 14
"""The least width of a column of texts, unless its texts are shorter."""
BORDERS = 3
"""The width of the border and blanks of a column."""
SHARE = 3
"""Names get this part of the width at most: a third."""


@dataclass(frozen=True)
class Part:
    """A part of a table that fits: the places of its columns, with a width for each."""

    columns: tuple[int, ...]
    widths: tuple[int, ...]


@dataclass(frozen=True)
class Extent:
    """How narrow and how wide a column may be. is_number: whether all its cells are numbers, or empty."""

    least: int
    most: int
    is_number: bool


def shortened_name(text: str, most: int) -> str:
    """Return a name without its middle if it is longer than that: beginning and end tell names apart."""
    if len(text) <= most:
        return text
    kept = max(most - 1, 2)
    return text[: kept - kept // 2] + ELLIPSIS + text[len(text) - kept // 2 :]


def fitting(pieces: Sequence[str], width: int) -> str:
    """Return as many of the pieces as fit on a line, the first ones, with two blanks between them; none is cut."""
    line = ""
    for piece in filter(None, pieces):
        longer = f"{line}  {piece}" if line else piece
        if len(longer) > width:
            break
        line = longer
    return line


def extents(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Extent]:
    """Return how narrow and wide each column may be. The first one has the names of rows."""
    found = []
    for place, name in enumerate(columns):
        cells = [row[place] for row in rows]
        longest = max((len(cell) for cell in cells), default=0)
        is_number = all(NUMBER.fullmatch(cell) for cell in cells)
        if place == 0:
            least = min(longest, width // SHARE)
        elif is_number:
            least = longest
        else:
            least = min(longest, NARROWEST)
        found.append(Extent(max(least, min(len(name), 6)), max(longest, len(name)), is_number and place > 0))
    return found


def parts_of(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Part]:
    """Return the tables into which one is divided so that each fits: all of them begin with the first column."""
    sizes = extents(columns, rows, width)
    groups: list[list[int]] = [[0]]
    for place in range(1, len(columns)):
        group = groups[-1]
        needed = sum(sizes[own].least + BORDERS for own in (*group, place)) + 1
        if needed > width and len(group) > 1:
            groups.append([0, place])
        else:
            group.append(place)
    return [Part(tuple(group), widened([sizes[own] for own in group], width)) for group in groups]


def widened(sizes: Sequence[Extent], width: int) -> tuple[int, ...]:
    """Return the widths of columns: the least ones, and what is left over given to those that are narrowest yet."""
    widths = [own.least for own in sizes]
    left = width - 1 - sum(own + BORDERS for own in widths)
    while left > 0:
        short = [place for place, own in enumerate(sizes) if widths[place] < own.most]
        if not short:
            break
        # Names and numbers come first: a text can be wrapped, and its header too.
        place = min(short, key=lambda one: (one > 0 and not sizes[one].is_number, widths[one]))
        widths[place] += 1
        left -= 1
    return tuple(widths)
