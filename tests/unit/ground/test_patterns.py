"""Patterns from users and files: matched, refused, or given up in time."""

from __future__ import annotations

import time

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.ground.patterns import matches_whole


def test_the_whole_text_is_meant() -> None:
    assert matches_whole(r"layer\.\d+", "layer.12", "here")
    assert not matches_whole(r"layer\.\d", "layer.12", "here")


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "(?P<x", "[z-a]", "\\"])
def test_a_broken_pattern_is_named(pattern: str) -> None:
    with pytest.raises(InputError) as caught:
        matches_whole(pattern, "a", "method.targets")
    (problem,) = caught.value.problems
    assert problem.where == "method.targets"
    assert repr(pattern) in problem.found


def test_a_pattern_that_takes_for_ever_is_given_up() -> None:
    begin = time.monotonic()
    with pytest.raises(InputError, match="too long"):
        matches_whole(r"(a|aa)+", "a" * 60 + "b", "method.targets")
    assert time.monotonic() - begin < 10
