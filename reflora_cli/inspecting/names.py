"""What the path of a module tells: how deep in the model it is, and of which kind."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

NUMBER = re.compile(r"(?<![^.])(\d+)(?![^.])")
"""A part of a path that is a number; the first one counts the blocks."""


def depth_of(path: str) -> int | None:
    """Return the number of the block in which a module is; None outside of all blocks."""
    found = NUMBER.search(path)
    return int(found[1]) if found else None


def kinds_of(paths: Iterable[str]) -> dict[str, str]:
    """Return the kind of every module: as few last parts of its path in a block as tell the kinds apart.

    Numbers behind the block's, as those of experts, tell nothing.
    """
    inside = {path: within_block(path) for path in paths}
    kinds = sorted(set(inside.values()))
    return {path: ".".join(own[-shortest(own, kinds) :]) for path, own in inside.items()}


def within_block(path: str) -> tuple[str, ...]:
    """Return the parts of a path behind the block's number, without further numbers; all parts outside of blocks."""
    _, _, rest = path.partition(found[0] + ".") if (found := NUMBER.search(path)) else ("", "", path)
    return tuple(part for part in (rest or path).split(".") if not part.isdigit())


def shortest(own: tuple[str, ...], kinds: Sequence[tuple[str, ...]]) -> int:
    """Return how many last parts tell a kind from all others."""
    for count in range(1, len(own)):
        if not any(other != own and other[-count:] == own[-count:] for other in kinds):
            return count
    return len(own)
