"""Benchmarks and robustness tools are run by hand: that they fit the package is tested here."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TOOLS = sorted(
    f"tests.{path.parent.name}.{path.stem}"
    for folder in ("benchmarks", "robustness", "gpu")
    for path in (TESTS / folder).glob("*.py")
    if not path.stem.startswith("__")
)


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_finds_what_it_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__
