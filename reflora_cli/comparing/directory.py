"""Name the files of a comparison's directory, and read what became of its runs.

What is known of a run is read from its own directory, so that a comparison which was killed knows what it has.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from reflora_cli.comparing.planned import PlannedRun
from reflora_cli.ground.errors import DivergedError, InputError
from reflora_cli.ground.paths import is_file
from reflora_cli.runs.comparison import FRESH, PLAN, TUNING, Scores, read_fresh
from reflora_cli.runs.directory import RunDirectory, read_results, unused_name


class State(StrEnum):
    """What became of a run."""

    WAITING = "waiting"
    DONE = "done"
    DIVERGED = "diverged"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """A run with what is known of it. scores: of the rows it was selected by; fresh: of rows that tuning never saw.
    seconds: of its steps. message: why it has no scores.
    """

    run: PlannedRun
    state: State
    metric: str = ""
    scores: Scores | None = None
    fresh: Scores | None = None
    seconds: float = 0.0
    message: str = ""

    def score(self, metric: str) -> float | None:
        """Return a score of the first split."""
        return next(iter((self.scores or {}).values()), {}).get(metric)


@dataclass(frozen=True)
class ComparisonDirectory:
    """The files of one comparison."""

    path: Path

    @property
    def plan(self) -> Path:
        return self.path / PLAN

    @property
    def chosen(self) -> Path:
        return self.path / "chosen.json"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def run(self, run: PlannedRun) -> RunDirectory:
        return RunDirectory(self.path / run.folder / run.name)

    def fresh(self, run: PlannedRun) -> Path:
        return self.path / run.folder / run.name / FRESH

    def log(self, run: PlannedRun) -> Path:
        """Return the file with what the run has told."""
        return self.path / "logs" / run.folder / f"{run.name}.txt"

    def failure(self, run: PlannedRun) -> Path:
        """Return the file that says why a run has ended without results."""
        return self.path / "failed" / run.folder / f"{run.name}.json"

    def result(self, run: PlannedRun) -> Result:
        """Return what is known of a run. One whose results are damaged has failed, and so has one that could not be
        scored on fresh rows after its training.
        """
        failure = read_failure(self.failure(run))
        try:
            results = read_results(self.run(run))
        except InputError as error:
            return Result(run, State.FAILED, message=str(error))
        if results:
            metric, seconds = str(results["main_metric"]), float(results["seconds"])
            fresh = fresh_scores(self.run(run).path)
            is_whole = failure is None or fresh is not None or run.folder == TUNING
            state, message = (State.DONE, "") if is_whole else (State.FAILED, str((failure or {}).get("message", "")))
            return Result(run, state, metric, results["scores"], fresh, seconds, message)
        if failure is None:
            return Result(run, State.WAITING)
        diverged = failure.get("exit_status") == DivergedError.exit_status
        state = State.DIVERGED if diverged else State.FAILED
        return Result(run, state, message=str(failure.get("message", "")))


def default_directory(name: str) -> Path:
    """Return compare/NAME-DATE-TIME, with a number if it exists already."""
    return unused_name(Path("compare") / f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S')}")


def read_failure(path: Path) -> dict[str, Any] | None:
    """Return what a run has left behind that ended without results; None if it left nothing."""
    if not is_file(path):
        return None
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {"message": f"{path} is damaged"}


def fresh_scores(run: Path) -> Scores | None:
    """Return the scores of fresh rows; None if there are none, or the file is damaged and is to be written again."""
    try:
        return read_fresh(run)
    except InputError:
        return None
