"""Work that takes long is told at intervals, and short work not at all."""

from __future__ import annotations

import pytest

from reflora_cli.console.pace import Pace, duration
from reflora_cli.console.reporter import Work, counted


def told(work: Work, seconds: float, steps: list[int]) -> list[str]:
    """The lines about work whose parts are done at equal intervals."""
    now, lines = 100.0, list[str]()
    pace = Pace(work, lines.append, lambda: now)
    for done in steps:
        now += seconds
        pace(done, lambda: f"accuracy {done / 100}")  # noqa: B023
    return lines


@pytest.mark.parametrize(("seconds", "expected"), [(0.1, []), (4.0, [1, 4]), (12.0, [1, 2, 3, 4, 5])])
def test_a_line_after_two_seconds_and_then_at_most_every_ten(seconds: float, expected: list[int]) -> None:
    """The last part has none: what comes of the work is told next."""
    lines = told(Work("start xyz", 6, "modules"), seconds, list(range(1, 7)))
    assert [line.partition(" modules")[0] for line in lines] == [f"start xyz: {done} of 6" for done in expected]


def test_speed_and_time_left_are_those_of_what_is_done_now() -> None:
    """Of 1,000 rows 500 were there at the beginning."""
    lines = told(Work("predicting", 1000, before=500), 10.0, [600, 650])
    assert lines == [
        "predicting: 600 of 1,000 rows, 10.0 rows/s, 40 s left, accuracy 6.0",
        "predicting: 650 of 1,000 rows, 7.5 rows/s, 47 s left, accuracy 6.5",
    ]


def test_nothing_is_divided_by_no_speed() -> None:
    assert told(Work("scoring", 9), 20.0, [0]) == ["scoring: 0 of 9 rows, 0.0 rows/s, accuracy 0.0"]


def test_a_length_of_time_is_written_in_a_unit_that_suits_it() -> None:
    assert [duration(seconds) for seconds in (0.4, 119, 160, 7100, 9000)] == [
        "0 s",
        "119 s",
        "3 min",
        "118 min",
        "2.5 h",
    ]


def test_items_are_counted_when_they_are_done() -> None:
    seen: list[str | int] = []
    for item in counted(["a", "b"], lambda done, score=str: seen.append(done)):
        seen.append(item)
    assert seen == ["a", 1, "b", 2]
