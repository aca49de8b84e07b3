"""List what a plan would run, without running anything."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli.comparing.command_line import NamedPlan
from reflora_cli.comparing.directory import ComparisonDirectory, State
from reflora_cli.comparing.planned import PlannedRun, planned_finals, tuning_runs
from reflora_cli.comparing.settings import Setting, checked_settings
from reflora_cli.comparing.stored import continued, read_plan
from reflora_cli.console.pace import duration
from reflora_cli.ground.paths import is_file
from reflora_cli.runs.comparison import FINAL


@dataclass(frozen=True)
class Forecast:
    """The runs of a plan. done: how many of them are finished. seconds: what one of those took; None if none is."""

    settings: Sequence[Setting]
    tuning: Sequence[PlannedRun]
    final: Sequence[PlannedRun]
    done: int
    seconds: float | None

    def lines(self) -> list[str]:
        """Return what the user sees: how many runs, which ones, and how long they would take."""
        total = len(self.tuning) + len(self.final)
        found = [
            f"{total} runs of {len(self.settings)} settings: {len(self.tuning)} to tune, {len(self.final)} to compare",
            *(f"  {run.title}" for run in self.tuning),
            *(f"  {FINAL}/{title}" for title in self.final_titles()),
        ]
        if self.seconds is not None:
            rest = max(0, total - self.done)
            left = duration(rest * self.seconds)
            found.append(
                f"{self.done} runs are done, {self.seconds:.1f} s of steps each: the other {rest} take about {left}"
            )
        return [*found, "nothing was run or written (--dry-run)"]

    def final_titles(self) -> list[str]:
        """Return the final runs by name; what tuning will choose is not known yet."""
        if not self.tuning:
            return [run.name for run in self.final]
        return [f"{run.setting}, seed={run.seed}, as tuned" for run in self.final]

    def record(self) -> dict[str, Any]:
        """Return the same, ready for JSON."""
        return {
            "settings": [own.name for own in self.settings],
            "runs": len(self.tuning) + len(self.final),
            "tuning": [run.name for run in self.tuning],
            "final": self.final_titles(),
            "done": self.done,
            "seconds_per_run": self.seconds,
        }


def forecast(named: NamedPlan, output: Path | None) -> Forecast:
    """Return what a plan would run. output: the directory of a comparison that it would continue. Raises InputError."""
    settings = checked_settings(named)
    seconds: list[float] = []
    directory = ComparisonDirectory(output) if output is not None else None
    if directory is not None and is_file(directory.plan):
        settings = continued(read_plan(directory), named, settings)
    tuning, final = tuning_runs(named.plan, settings), planned_finals(named.plan, settings)
    if directory is not None:
        results = [directory.result(run) for run in (*tuning, *final)]
        seconds = [own.seconds for own in results if own.state is State.DONE]
    return Forecast(settings, tuning, final, len(seconds), statistics.fmean(seconds) if seconds else None)
