"""Work that takes long is told at intervals, and short work not at all."""

from __future__ import annotations

import pytest

from reflora_cli.console.pace import Pace
from reflora_cli.console.plain import PlainReporter


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.1, []), (4.0, ["3 of 6", "6 of 6"]), (12.0, [f"{done} of 6" for done in range(1, 7)])],
)
def test_a_line_at_most_every_ten_seconds(
    seconds: float, told: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 100.0
    monkeypatch.setattr("reflora_cli.console.pace.time.monotonic", lambda: now)
    pace = Pace(PlainReporter(), "start xyz")
    for done in range(1, 7):
        now += seconds
        pace(done, 6)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"start xyz: {own} modules" for own in told]
