"""The list of a run's continuations."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.resumed import record_resumed, resumed_steps

ENVIRONMENT = {"device": "cpu", "threads": 1, "reflora": "1", "python": "3", "packages": {}, "git": None}


def test_every_continuation_is_listed_and_damaged_lines_are_left_out(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert resumed_steps(run) == []
    record_resumed(run, 8, ENVIRONMENT)
    with run.resumed.open("ab") as stream:
        stream.write(b'\xff\n{"step": null}\n[]\n')
    record_resumed(run, 8, ENVIRONMENT)
    assert resumed_steps(run) == [8, 8]


@pytest.mark.parametrize(
    "damaged", ["", "[]", '{"step": null}', '{"step": Infinity}', '{"step": NaN}', "[" * 9999, "\0"]
)
def test_a_damaged_line_costs_nothing_else(damaged: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.resumed.write_text(f'{{"step": 4}}\n{damaged}\n{{"step": 6}}\n', encoding="utf-8")
    assert resumed_steps(run) == [4, 6]
