"""Say what a comparison has found: a line for each setting, and one object with everything."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from reflora_cli.comparing.compare import Comparison
from reflora_cli.comparing.directory import Result, State
from reflora_cli.comparing.settings import leaf, shown
from reflora_cli.runs.comparison import FINAL

COLUMNS = ("setting", "tuned", "runs", "selected by", "fresh rows", "seconds")
PRESENT = (State.DONE, State.DIVERGED, State.FAILED, State.WAITING)


def lines_of(comparison: Comparison) -> list[list[str]]:
    """Return the closing table: of each setting its scores as mean and standard deviation over the seeds."""
    return [line(comparison, setting.name) for setting in comparison.settings]


def line(comparison: Comparison, name: str) -> list[str]:
    own = [result for result in comparison.results if result.run.setting == name and result.run.folder == FINAL]
    done = [result for result in own if result.state is State.DONE]
    choice = next((choice.chosen for choice in comparison.choices if choice.setting == name), None) or {}
    tuned = ", ".join(f"{leaf(key)}={shown(value)}" for key, value in choice.items())
    seconds = f"{statistics.fmean(result.seconds for result in done):.1f}" if done else ""
    return [name, tuned, f"{len(done)} of {len(own)}", selected(done), fresh(done), seconds]


def selected(done: Sequence[Result]) -> str:
    """Return the scores by which adapters were selected."""
    metric = done[0].metric if done else ""
    return spread(metric, [score for own in done if (score := own.score(own.metric)) is not None])


def fresh(done: Sequence[Result]) -> str:
    """Return the main scores of rows that tuning never saw, of the first split or task."""
    found = [next(iter(next(iter(own.fresh.values())).items())) for own in done if own.fresh]
    return spread(found[0][0], [score for _, score in found]) if found else ""


def spread(metric: str, scores: Sequence[float]) -> str:
    """Return the mean and standard deviation of scores."""
    if not scores:
        return ""
    deviation = f" ± {statistics.stdev(scores):.4f}" if len(scores) > 1 else ""
    return f"{metric} {statistics.fmean(scores):.4f}{deviation}"


def record_of(comparison: Comparison) -> dict[str, Any]:
    """Return everything that was found, ready for JSON."""
    states = {state.value: [own.run.title for own in comparison.results if own.state is state] for state in PRESENT}
    return {
        "directory": str(comparison.directory),
        "baseline": comparison.baseline,
        "status": comparison.status,
        "counts": {state: len(titles) for state, titles in states.items()},
        "chosen": {choice.setting: choice.record() for choice in comparison.choices},
        "runs": [run_record(own, comparison) for own in comparison.results],
        "warnings": list(comparison.warnings),
    }


def run_record(result: Result, comparison: Comparison) -> dict[str, Any]:
    """Return what is known of one run."""
    run = result.run
    return {
        "run": str(comparison.directory / run.folder / run.name),
        "setting": run.setting,
        "tuned": run.tuned,
        "seed": run.seed,
        "state": result.state.value,
        "main_metric": result.metric,
        "scores": result.scores,
        "fresh": result.fresh,
        "seconds": result.seconds,
        **({"message": result.message} if result.message else {}),
    }
