"""Name what lies in the directory of a comparison, and read the scores of its runs on rows that tuning never saw."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import is_file

PLAN = "plan.yaml"
TUNING, FINAL, ASIDE = "tuning", "runs", "superseded"
"""The folders of runs by which a method is tuned, of those that are compared, and of those that were."""
SEED = "train.seed"
"""The key of a recipe in which the runs of one setting differ."""
SETTLED = ("task.labels", "task.separator", "task.class_weights", "task.template")
"""The keys of a recipe that a run fills in when it begins."""
FRESH = "fresh.json"
"""The file beside a run's results with its scores on rows that tuning never saw."""

Scores = Mapping[str, Mapping[str, float]]
"""Scores by split and name, the main one first."""


def read_fresh(run: Path) -> Scores | None:
    """Return a run's scores on rows that tuning never saw; None where there are none. Raises InputError for a damaged
    file.
    """
    path = run / FRESH
    if not is_file(path):
        return None
    try:
        scores = json.loads(path.read_text(encoding="utf-8"))["scores"]
        return {
            str(split): {str(name): float(value) for name, value in own.items() if isinstance(value, int | float)}
            for split, own in scores.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        remedy = "remove the file; `reflora compare ... --resume` writes it again"
        raise InputError(Problem("the file is damaged", str(path), repr(error), remedy=remedy)) from error
