"""Return what a comparison has found as one object for programs; people read its report."""

from __future__ import annotations

from typing import Any

from reflora_cli.comparing.compare import Comparison
from reflora_cli.comparing.directory import Result, State

PRESENT = (State.DONE, State.DIVERGED, State.FAILED, State.WAITING)


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
