"""What is too old or missing is told with the command that mends it."""

from __future__ import annotations

import importlib.util
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from reflora_cli.diagnosing import versions
from reflora_cli.diagnosing.finding import State
from reflora_cli.ground.extras import EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_what_is_installed_is_new_enough() -> None:
    found = versions.package(Requirement("numpy>=2.0"))
    assert (found.state, found.value) == (State.OK, metadata.version("numpy"))


def test_an_old_package_is_broken_with_a_command() -> None:
    found = versions.package(Requirement("numpy>=999,<1000"))
    assert found.state is State.BROKEN
    assert metadata.version("numpy") in found.value
    assert found.remedy in ("pip install 'numpy>=999,<1000'", "pip install 'numpy<1000,>=999'")


def test_a_missing_package_is_broken() -> None:
    found = versions.package(Requirement("no-such-package>=1"))
    assert (found.state, found.value) == (State.BROKEN, "not installed")


def test_python_is_compared_too() -> None:
    assert versions.python(">=3.11").state is State.OK
    assert versions.python(">=4.1").state is State.BROKEN


def test_parts_of_an_extra_are_not_required() -> None:
    stated = ["torch>=2.7", 'gguf>=0.17; extra == "gguf"', 'tomli; python_version < "3.0"']
    assert [own.name for own in versions.required(stated)] == ["torch"]


def test_without_metadata_there_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "DISTRIBUTION", "reflora-that-is-not-installed")
    *_, last = versions.versions()
    assert (last.name, last.state) == ("installation", State.WARNING)


def test_optional_parts_are_those_of_the_package() -> None:
    stated = {
        name: {Requirement(own).name for own in needed}
        for name, needed in PROJECT["optional-dependencies"].items()
        if name != "dev"
    }
    assert {name: {*extra.modules.values()} for name, extra in EXTRAS.items()} == stated


def test_what_is_missing_of_a_part_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else object())
    found = versions.optional_part(EXTRAS["onnx"])
    assert (found.state, found.remedy) == (State.WARNING, "pip install onnxruntime")
