"""One run directory as a record."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.reporting.records import Stage, read_run
from tests.unit.reporting.made_runs import Made, make_run


@pytest.mark.parametrize(
    ("extra", "expected"),
    [({}, 20.0), ({"step_seconds": {"median": 0.5, "p5": 0.4, "p95": 0.7}}, 0.5)],
    ids=["of an older version", "with the times of steps"],
)
def test_a_pause_does_not_make_the_steps_of_a_run_slower(
    extra: dict[str, object], expected: float, tmp_path: Path
) -> None:
    """Of 600 seconds for 30 steps, a process that was suspended has not trained in nearly all."""
    run = read_run(make_run(tmp_path / "run", Made(seconds=600.0, extra=extra)), Stage.FINAL, None)
    assert run.cost.seconds_per_step == expected
