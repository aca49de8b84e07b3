"""Write the numbers of a report for programs: CSV and JSON, unrounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from reflora_cli.reporting.cells import Compared, Group, Row
from reflora_cli.reporting.edges import Edge
from reflora_cli.reporting.published import Beside
from reflora_cli.reporting.records import RunRecord
from reflora_cli.reporting.settings import Column

MACHINE = ("device", "threads", "dtype", "processes")


def score_frame(groups: Sequence[Group]) -> pd.DataFrame:
    """Return a line for each setting and column, in the units of the tables, with its difference to the baseline."""
    lines = []
    for group in groups:
        for row in group.rows:
            for column, cell in row.cells.items():
                lines.append(
                    {
                        "base": group.base,
                        "by": group.by,
                        "setting": row.label,
                        "method": row.method,
                        "task": column.task,
                        "split": column.split,
                        "fresh": column.is_fresh,
                        "metric": column.metric,
                        "times": group.scales[column],
                        "n": cell.n,
                        "mean": cell.mean,
                        "sd": cell.sd,
                        "validation_mean": cell.validation_mean,
                        "diverged": cell.diverged,
                        "best": cell.is_best,
                        "shown_to_be_best": cell.is_proved,
                        **difference_fields(group, row.label, column),
                        **{key: written(cell.setting.keys.get(key)) for key in named_keys(group)},
                    }
                )
    return pd.DataFrame(lines)


def named_keys(group: Group) -> tuple[str, ...]:
    """Return the keys of recipes that are given for each setting: those that were tuned, and those that differ."""
    return tuple(dict.fromkeys((*group.telling, *group.tuned, *group.varied)))


def difference_fields(group: Group, label: str, column: Column) -> dict[str, object]:
    """Return the columns of a setting's difference to its baseline; empty for none."""
    own = next((one for one in group.compared if (one.row, one.column) == (label, column)), None)
    values = {} if own is None else difference_record(own)
    names = (
        "baseline", "difference", "t_low", "t_high", "bootstrap_low", "bootstrap_high", "p", "p_corrected",
        "p_sign_flip", "pairs", "wins", "ties", "losses",
    )  # fmt: skip
    return {name: values.get(name) for name in names}


def difference_record(one: Compared) -> dict[str, object]:
    """Return a difference as JSON has it."""
    found = one.found
    t, bootstrap = found.t or (None, None), found.bootstrap or (None, None)
    return {
        "baseline": one.baseline,
        "difference": found.mean,
        "sd": found.sd,
        "t_low": t[0],
        "t_high": t[1],
        "bootstrap_low": bootstrap[0],
        "bootstrap_high": bootstrap[1],
        "bootstrap_kind": found.bootstrap_kind,
        "p": found.p,
        "p_corrected": one.p,
        "p_sign_flip": found.exact,
        "pairs": found.n,
        "seeds": list(found.seeds),
        "wins": found.wins,
        "ties": found.ties,
        "losses": found.losses,
    }


def run_frame(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """Return a line for each run: what was asked, what it ran on, what it took, and its scores as they are."""
    return pd.DataFrame([run_record(run) for run in runs])


def run_record(run: RunRecord) -> dict[str, object]:
    """Return one run by names without nesting."""
    scores = {f"score.{split}.{name}": value for split, own in run.scores.items() for name, value in own.items()}
    validation = {
        f"validation.{split}.{name}": value for split, own in run.validation.items() for name, value in own.items()
    }
    return {
        "run": str(run.path),
        "stage": run.stage.value,
        "task": run.task,
        "base": run.base_name,
        "base_identity": run.base,
        "method": run.method,
        "seed": run.seed,
        "metric": run.metric,
        "fresh": run.is_fresh,
        **{name: getattr(run.machine, name) for name in MACHINE},
        **{f"version.{name}": version for name, version in run.machine.versions.items()},
        **asdict(run.cost),
        **scores,
        **(validation if run.is_fresh else {}),
        **{key: written(value) for key, value in run.keys.items()},
    }


def written(value: Any) -> Any:
    """Return a value of a recipe as a cell has it: a list as its items with commas."""
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value


def group_record(
    group: Group, edges: Sequence[Edge], published: Sequence[Beside], words: Sequence[str]
) -> dict[str, Any]:
    """Return a table as JSON has it."""
    return {
        "base": group.base,
        "by": group.by,
        "baseline": group.baseline,
        "words": list(words),
        "columns": [
            asdict(column)
            | {"name": group.names[column], "times": group.scales[column], "p_best": group.best_p.get(column)}
            for column in group.columns
        ],
        "rows": [row_record(group, row) for row in group.rows],
        "differences": [
            {"setting": one.row, "column": group.names[one.column], **difference_record(one)} for one in group.compared
        ],
        "edges": [asdict(edge) for edge in edges],
        "published": [published_record(group, own) for own in published],
    }


def row_record(group: Group, row: Row) -> dict[str, Any]:
    """Return a row with all scores by seed."""
    cells = [
        {
            "column": group.names[column],
            "scores": {str(seed): score for seed, score in cell.scores.items()},
            "n": cell.n,
            "mean": cell.mean,
            "sd": cell.sd,
            "validation_mean": cell.validation_mean,
            "diverged": cell.diverged,
            "best": cell.is_best,
            "shown_to_be_best": cell.is_proved,
            "keys": {key: cell.setting.keys.get(key) for key in named_keys(group)},
        }
        for column, cell in row.cells.items()
    ]
    return {"setting": row.label, "method": row.method, "average": group.average.get(row.label), "cells": cells}


def published_record(group: Group, own: Beside) -> dict[str, Any]:
    """Return a published score beside ours."""
    return {
        "setting": own.row,
        "column": group.names[own.column],
        "published": own.published.score,
        "ours": own.ours.mean,
        "source": own.published.source,
        "statistic": own.published.statistic,
        "differs": list(own.differs),
    }


def finite(value: Any) -> Any:
    """Return a value with None for every number that JSON cannot hold, and lists for tuples."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {str(key): finite(own) for key, own in value.items()}
        case list() | tuple():
            return [finite(own) for own in value]
        case _:
            return value
