"""A part that is missing is told in one way, with the commands that get it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.ground.extras import EXTRAS, Extra
from reflora_cli.methods.settings import TrackerName

PRESENT = Extra("own", {"json": "json", "csv": "csv"}, "tests")


def test_what_is_there_is_not_refused() -> None:
    PRESENT.require()
    PRESENT.refuse_missing("somewhere")


@pytest.mark.parametrize("name", sorted(EXTRAS))
def test_what_is_missing_has_its_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = EXTRAS[name]
    for module in extra.modules:
        monkeypatch.setitem(sys.modules, module, None)
    packages = " ".join(extra.modules.values())
    for refuse in (extra.require, extra.refuse_missing):
        with pytest.raises(InputError) as refused:
            refuse("the setting")
        (problem,) = refused.value.problems
        assert (
            problem.remedy == f"pip install {packages}, or pip install '.[{name}]' in the directory of reflora's source"
        )
        assert problem.where == "the setting"
        assert extra.purpose in problem.what


def test_a_package_that_cannot_be_imported_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_part.py").write_text("import no_such_module_of_it", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    broken = Extra("own", {"broken_part": "broken-part"}, "tests")
    broken.refuse_missing("it is installed")
    with pytest.raises(InputError, match="no_such_module_of_it"):
        broken.require()


def test_a_part_of_a_part_asks_for_its_own_packages_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    trackers = EXTRAS["trackers"]
    trackers.only(["tensorboard"]).refuse_missing("train.trackers")
    with pytest.raises(InputError, match="pip install wandb, or"):
        trackers.only(["wandb", "tensorboard"]).refuse_missing("train.trackers")


def test_every_tracker_is_a_library_of_that_part() -> None:
    assert {*EXTRAS["trackers"].modules} == {*TrackerName}
