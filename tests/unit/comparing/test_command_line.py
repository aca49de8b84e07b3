"""What follows `reflora compare` on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reflora_cli.comparing.command_line import argument_values, plan_of
from reflora_cli.ground.errors import InputError


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("method.name=lora,reflora", ["lora", "reflora"]),
        ("train.learning_rate=3e-4,1e-3", [3e-4, 1e-3]),
        ("method.targets=[q_proj, v_proj]", [["q_proj", "v_proj"]]),
        ("method.targets=[q_proj, v_proj],all-linear", [["q_proj", "v_proj"], "all-linear"]),
        ("method.update={kind: reflora, interval: 2},plain", [{"kind": "reflora", "interval": 2}, "plain"]),
        ('task.wording="{a}, {b}"', ["{a}, {b}"]),
        ("task.data=it's,here", ["it's", "here"]),
        ("model.revision=null", [None]),
    ],
)
def test_values_are_divided_at_commas_outside_of_brackets_and_quotes(argument: str, expected: list[Any]) -> None:
    assert argument_values(argument) == (argument.partition("=")[0], expected)


words = st.text(alphabet="abc ,[]{}'\"", max_size=8)
single = st.integers(-(2**40), 2**40) | st.booleans() | words
values = st.recursive(single, lambda own: st.lists(own, max_size=3), max_leaves=6)


@given(st.lists(values.filter(lambda own: own != ""), min_size=1, max_size=4))
def test_what_is_written_as_json_is_read_back(given_values: list[Any]) -> None:
    found = argument_values("task.text=" + ",".join(map(json.dumps, given_values)))
    assert found == ("task.text", given_values)


def test_one_value_is_for_all_runs_and_several_are_compared() -> None:
    plan = plan_of("quickstart", ["method.name=lora,dora", "train.steps=2", "train.seed=0..2"]).plan
    assert (plan.recipe, plan.grid, plan.set) == ("quickstart", {"method.name": ["lora", "dora"]}, {"train.steps": 2})
    assert plan.seeds == [0, 1, 2]


@pytest.mark.parametrize(("text", "expected"), [("0..3", [0, 1, 2, 3]), ("0..1,7,1", [0, 1, 7]), ("5", [5])])
def test_seeds_may_be_ranges(text: str, expected: list[int]) -> None:
    assert plan_of("quickstart", [f"train.seed={text}"]).plan.seeds == expected


def test_settings_change_a_plan_too() -> None:
    named = plan_of("plans/quickstart", ["train.steps=2", "train.seed=5"])
    assert (named.name, named.plan.set["train.steps"], named.plan.seeds) == ("quickstart", 2, [5])
    assert named.plan.set["task.validation_rows"] == 200


def test_all_malformed_settings_are_told_at_once() -> None:
    with pytest.raises(InputError) as refused:
        plan_of("quickstart", ["method.name", "a b=1", "train.steps=[1"])
    assert len(refused.value.problems) == 3
