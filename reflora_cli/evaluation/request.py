"""What is asked of an evaluation, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflora_cli.methods.settings import EvalProtocol


@dataclass(frozen=True)
class Request:
    """What to score.

    source: a run directory, a YAML file or the name of a bundled recipe. overrides: KEY=VALUE of its recipe. adapter:
    a directory with another adapter than the run's. tasks: names of tasks, instead of the recipe's. split: the split
    of their data, instead of their own. limit: the first rows of a split. protocol: instead of the recipe's. output:
    the directory for predictions, instead of one below the run.
    """

    source: str
    overrides: tuple[str, ...] = ()
    adapter: Path | None = None
    tasks: tuple[str, ...] = ()
    split: str | None = None
    limit: int | None = None
    protocol: EvalProtocol | None = None
    output: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model.

    title: what was scored. first: what the lines are called: `split` or `task`. lines: scores and counts by name, from
    which `columns` are shown. results: all that is known, ready for JSON. directory: where predictions are; None if
    none are written. reports: what is known of each label, by split.
    """

    title: str
    first: str
    columns: tuple[str, ...]
    lines: Mapping[str, Mapping[str, Any]]
    results: dict[str, Any]
    directory: Path | None = None
    reports: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
