"""Tell how far a comparison is: a line for each run that begins or ends, with the time that is left."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from reflora_cli.comparing.directory import Result, State
from reflora_cli.comparing.planned import PlannedRun
from reflora_cli.console.pace import duration
from reflora_cli.console.reporter import Reporter


@dataclass
class Progress:
    """The number of runs that have ended, of all runs; at_once: how many are carried out at one time."""

    reporter: Reporter
    total: int
    at_once: int
    ended: int = 0
    begun: int = 0
    seconds: list[float] = field(default_factory=list)

    def found(self, count: int) -> None:
        """Count runs that were finished before."""
        self.ended += count
        self.begun += count
        if count:
            self.reporter.note(f"{count} of {self.total} runs are there already")

    def warn(self, warnings: Sequence[str]) -> None:
        """Tell what the user should know before the comparison has ended."""
        for warning in warnings:
            self.reporter.note(f"warning: {warning}")

    def begin(self, run: PlannedRun) -> None:
        self.begun += 1
        self.reporter.note(f"run {self.begun} of {self.total}: {run.title}")

    def end(self, result: Result, seconds: float) -> None:
        """Tell what a run has come to. seconds: from its beginning to its end."""
        self.ended += 1
        self.seconds.append(seconds)
        rest = self.total - self.ended
        pace = f"{self.ended} of {self.total} done"
        if rest:
            pace += f", about {duration(statistics.fmean(self.seconds) * rest / max(1, self.at_once))} left"
        self.reporter.note(f"  {result.run.title}: {outcome(result)}, {seconds:.1f} s ({pace})")


def outcome(result: Result) -> str:
    """Return what a run has come to, in a few words."""
    if result.state is not State.DONE:
        first = result.message.strip().splitlines()
        return f"{result.state.value}{f': {first[0]}' if first and result.state is State.FAILED else ''}"
    score = result.score(result.metric)
    own = f"{result.metric} {score:.4f}" if score is not None else "done"
    fresh = [f"fresh {name} {value:.4f}" for split in (result.fresh or {}).values() for name, value in split.items()]
    return ", ".join([own, *fresh[:1]])
