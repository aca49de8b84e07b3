"""`reflora show` tells of all methods, and of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reflora_cli.methods import measured
from reflora_cli.methods.presets import PRESETS
from tests.cli.conftest import Reflora


def test_the_table_has_a_row_for_every_preset(reflora: Reflora) -> None:
    outcome = reflora("show", "methods", "--base", "builtin:tiny-llama", "--rank", 4, "--json")
    assert outcome.status == 0, outcome.err
    rows = {row["preset"]: row for row in outcome.json["methods"]}
    assert list(rows) == list(PRESETS)
    assert rows["lora"]["parameters"] == 48_640
    assert rows["bitfit"]["parameters"] is None
    assert rows["pissa"]["start"] == "pissa"
    assert all(name in outcome.err for name in PRESETS)


def test_costs_are_columns_where_they_were_measured(
    reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "FILE", tmp_path / "measured.json")
    without = reflora("show", "methods", "--base", "builtin:tiny-llama", "--json").json
    assert "time" not in without["methods"][0]
    found = {"setting": "three steps somewhere", "costs": {"dora": {"time": 1.25, "memory": 1.0625}}}
    (tmp_path / "measured.json").write_text(json.dumps(found), encoding="utf-8")
    outcome = reflora("show", "methods", "--base", "builtin:tiny-llama", "--json")
    rows = {row["preset"]: row for row in outcome.json["methods"]}
    assert (rows["dora"]["time"], rows["dora"]["memory"], rows["lora"]["time"]) == (1.25, 1.0625, None)
    assert "three steps somewhere" in outcome.err


def test_one_method_with_formula_fields_and_refusals(reflora: Reflora) -> None:
    outcome = reflora("show", "lora-pro", "--json")
    assert outcome.status == 0, outcome.err
    text = " ".join(outcome.err.split())
    for part in ("Wang et al. 2024", "W + s B A", "moments = factors", "damping = auto", "layer vera"):
        assert part in text
    assert outcome.json["refusals"]["layer vera"] == "update lora-pro is for pairs A, B, and layer vera trains none"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("pisa",), "did you mean 'pissa'"),
        (("lora", "--rank", 4), "parameters are counted for the table"),
        (("lora", "--base", "builtin:tiny-llama"), "parameters are counted for the table"),
        (("methods", "--base", "nobody/nothing"), "nobody/nothing"),
    ],
)
def test_wrong_input_is_refused(arguments: tuple[object, ...], expected: str, reflora: Reflora) -> None:
    outcome = reflora("show", *arguments)
    assert outcome.status == 2
    assert expected in " ".join(outcome.err.split())
