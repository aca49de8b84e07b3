"""What is asked of a combination, and what comes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Combining

BY_DENSITY = (Combining.TIES, Combining.DARE)
"""The ways that drop entries of the changes."""
USUAL_DENSITY = 0.5
NEEDS_SEED = (Combining.DARE, Combining.SEARCH)
"""The ways that draw at random."""


FEW, TRIED = 64, 40
"""How many rows a search looks at, and how many weights it tries, as in LoRAHub."""


@dataclass(frozen=True)
class SearchRequest:
    """The rows by which weights are searched. task: a task's name; None for that of the first run among the adapters.
    data: where its rows are; None for where the task or the run has them. rows: how many training rows are looked at.
    steps: how many weights are tried.
    """

    task: str | None = None
    data: str | None = None
    rows: int = FEW
    steps: int = TRIED


@dataclass(frozen=True)
class CombineRequest:
    """What to combine.

    adapters: adapter or run directories. weights: one for each; None for 1 each. rank: that of the result, for the ways
    that truncate; None for the largest of the adapters. density: the share of entries that stay; None for 0.5. head:
    the adapter, as it is given, from which modules saved whole are taken; None for their weighted mean. base: the base
    instead of the one that the adapters name.
    """

    adapters: tuple[str, ...]
    output: Path
    how: Combining = Combining.CONCAT
    weights: tuple[float, ...] | None = None
    rank: int | None = None
    density: float | None = None
    seed: int | None = None
    head: str | None = None
    base: str | None = None
    search: SearchRequest | None = None

    def check(self) -> None:
        """Raises InputError for values that are out of range, or have no meaning for the way that is asked for."""
        if problems := [*self.weight_problems(), *self.idle_problems(), *self.range_problems()]:
            raise InputError(*problems)

    def weight_problems(self) -> list[Problem]:
        if self.weights is None:
            return []
        shown = ",".join(f"{own:g}" for own in self.weights)
        if self.how is Combining.SEARCH:
            remedy = "leave it out, or choose another --how"
            return [
                Problem(
                    "--weights has no effect with --how search, which finds them", "--weights", shown, remedy=remedy
                )
            ]
        if len(self.weights) != len(self.adapters):
            expected = f"{len(self.adapters)} weights"
            return [Problem("--weights must have one weight for each adapter", "--weights", shown, expected)]
        if not all(map(math.isfinite, self.weights)):
            return [Problem("a weight is not finite", "--weights", shown, "finite numbers")]
        if not any(self.weights):
            return [
                Problem("all weights are 0: nothing would be left", "--weights", shown, "at least one that is not 0")
            ]
        return []

    def idle_problems(self) -> list[Problem]:
        how = f"--how {self.how}"
        idle = {
            "--rank": (
                self.rank,
                self.how is Combining.CONCAT,
                "the ranks of the adapters add up, and nothing is truncated",
            ),
            "--density": (self.density, self.how not in BY_DENSITY, "no entries are dropped"),
            "--seed": (self.seed, self.how not in NEEDS_SEED, "nothing is drawn at random"),
            "--task, --data, --rows or --steps": (self.search, self.how is not Combining.SEARCH, "no rows are read"),
        }
        return [
            Problem(f"{option} has no effect with {how}: {why}", option, str(value), remedy="leave it out")
            for option, (value, has_none, why) in idle.items()
            if value is not None and has_none
        ]

    def range_problems(self) -> list[Problem]:
        problems = []
        if self.density is not None and not 0 < self.density <= 1:
            problems.append(Problem("the share of entries to keep is out of range", "--density", str(self.density),
                                    "above 0, at most 1"))  # fmt: skip
        if self.head is not None and self.head not in self.adapters:
            problems.append(Problem("--head names an adapter that is not combined", "--head", self.head,
                                    f"one of {', '.join(self.adapters)}"))  # fmt: skip
        return problems


@dataclass(frozen=True)
class CombineReport:
    """What was written. modules: how many weights it changes. rank: the largest of a module. parameters: how many
    values its tensors have. adapters, weights: what was combined, one weight for each. lost: the share of the change
    that truncation left out, in the Frobenius norm over all modules, and worst the largest share of one module; None
    where nothing was truncated. head: where modules saved whole come from. search: what a search did. notes: what the
    user should know.
    """

    output: str
    how: Combining
    modules: int
    rank: int
    parameters: int
    adapters: tuple[str, ...]
    weights: tuple[float, ...]
    lost: float | None = None
    worst: float | None = None
    head: str = ""
    search: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
