"""Draw what is tried for every method: the whole grid, or as many of its settings as the budget allows."""

from __future__ import annotations

import random
from itertools import product

from reflora_cli.comparing.plan import Tuning, Values


def tries_of(tune: Tuning) -> list[Values]:
    """Return the settings that are tried, the same ones for every method, in the order of the grid.

    Those of a smaller budget are drawn by a fixed seed, and are among those of a larger one.
    """
    whole = [dict(zip(tune.grid, values, strict=True)) for values in product(*tune.grid.values())]
    drawn = random.Random(0).sample(range(len(whole)), len(whole))[: tune.tries]
    return [whole[index] for index in sorted(drawn)]
