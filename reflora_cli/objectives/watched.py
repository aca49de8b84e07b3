"""Score a split, and show meanwhile how far that is."""

from __future__ import annotations

from functools import partial
from typing import Any

from reflora_cli.console.reporter import Reporter, Work
from reflora_cli.objectives.objective import Objective, Split
from reflora_cli.tasks.tally import Tally


def watched_tally(objective: Objective[Any], split: Split, batch_size: int, reporter: Reporter) -> Tally[Any]:
    """Return the outcomes of the split's rows. Of several processes the first one shows its own share of the rows,
    times their number.
    """
    total, (_, processes) = len(split.rows), objective.compute.scoring
    with reporter.counting(Work(f"scoring {split.name}", total)) as tell:
        return objective.tally(
            split, batch_size, lambda own: tell(min(total, own.rows * processes), partial(score_of, own))
        )


def score_of(tally: Tally[Any]) -> str:
    """Return the score so far as it is shown."""
    return "  ".join(f"{name} {value:.4f}" for name, value in tally.so_far().items())
