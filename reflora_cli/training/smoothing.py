"""Make long and spiky curves readable: moving medians, and the height above which single values are cut off."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

FEWEST = 60
"""The smallest number of values of which a second, smoothed line is drawn."""
PARTS = 40
"""A moving median covers about the values of one of so many equal parts."""
POINTS = 400
"""The most points of a smoothed line, which are as many as can be seen."""


def width_for(count: int) -> int:
    """Return the odd number of values of a moving median; 1, no smoothing, for so few that each can be seen."""
    return 1 if count < FEWEST else 2 * max(1, count // (2 * PARTS)) + 1


def moving_median(values: Sequence[float], width: int) -> dict[int, float]:
    """Return medians of the `width` values around some of them, by index: evenly apart, with both ends. Near an end
    they are of as many values as there are on both sides, so that the line is not shifted.
    """
    last = len(values) - 1
    parts = min(last, POINTS - 1)
    places = [round(part * last / max(1, parts)) for part in range(parts + 1)]
    reach = {index: min(width // 2, index, last - index) for index in places}
    return {index: median(values[index - own : index + own + 1]) for index, own in reach.items()}


def ceiling(values: Sequence[float], shown: Sequence[float]) -> float | None:
    """Return the height above which values are cut off because single ones are so high that nothing else could be
    read; None where all can be seen. shown: what must not be cut off.
    """
    ordered = sorted(values)
    low, ordinary = ordered[0], ordered[int(0.98 * (len(ordered) - 1))]
    top = max([ordinary + 0.25 * (ordinary - low), *shown])
    return top if len(values) >= FEWEST and top > low and ordered[-1] - low > 1.5 * (top - low) else None
