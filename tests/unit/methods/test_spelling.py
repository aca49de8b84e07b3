"""Every way to write a choice is the same record, and contradictions are refused."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from reflora_cli.methods.layers import DoRALayer
from reflora_cli.methods.method import Method
from reflora_cli.methods.spelling import spelled_out
from reflora_cli.methods.starts import GaussianStart
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import UPDATES, RefLoRASUpdate, RefLoRAUpdate, ScaledGDUpdate


def method(**values: Any) -> Method:
    return Method.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"layer": "dora", "start": "gaussian", "update": "reflora", "refactor": {"warmup_steps": 3}},
        {"layer": {"kind": "dora"}, "init": "gaussian", "update": {"kind": "reflora", "warmup_steps": 3}},
        {"layer": DoRALayer(), "start": GaussianStart(), "update": RefLoRAUpdate(warmup_steps=3)},
        {"layer": "dora", "init": {"kind": "gaussian"}, "update": {"warmup_steps": 3}, "name": "reflora"},
        {"layer": "dora", "start": {"kind": "gaussian"}, "update": {}, "refactor": Refactor(warmup_steps=3)},
        {
            "layer": "dora",
            "start": "gaussian",
            "update": {"kind": "reflora", "warmup_steps": 3},
            "refactor": {"warmup_steps": 3, "interval": 1},
        },
    ],
)
def test_all_spellings_are_one_method(values: dict[str, Any]) -> None:
    expected = RefLoRAUpdate(warmup_steps=3, interval=1, damping="auto")
    own = method(**values)
    assert (own.layer, own.start, own.update) == (DoRALayer(), GaussianStart(), expected)
    assert own == method(name="reflora", layer="dora", start="gaussian", update=expected)
    assert hash(own) == hash(method(name="reflora", layer="dora", start="gaussian", update=expected))


@pytest.mark.parametrize("kind", UPDATES)
def test_what_refactor_says_goes_to_the_fields_that_a_rule_has(kind: str) -> None:
    refactor = {"warmup_steps": 7, "interval": 5, "damping": 0.25}
    layer = "stella" if UPDATES[kind].of_frames else "lora"
    own = method(layer=layer, update=kind, refactor=refactor).update.model_dump(include={*refactor})
    assert own == {key: value for key, value in refactor.items() if key in UPDATES[kind].model_fields}


def test_a_choice_without_kind_is_of_the_preset_s() -> None:
    assert method(name="scaled-gd", update={"warmup_steps": 3}).update == ScaledGDUpdate(warmup_steps=3)
    assert method(name="reflora-s", update={}).update == RefLoRASUpdate()
    with pytest.raises(ValidationError, match="Extra inputs"):
        method(name="lora", update={"warmup_steps": 3})


def test_what_is_written_has_the_full_form_and_not_refactor() -> None:
    written = method(name="reflora", init="gaussian", refactor={"interval": 4}).model_dump(mode="json")
    assert written["update"] == {"kind": "reflora", "warmup_steps": 100, "interval": 4, "damping": "auto"}
    assert written["start"] == {"kind": "gaussian"}
    assert not {"refactor", "init"} & set(written)


@pytest.mark.parametrize("record", [RefLoRASUpdate(), RefLoRASUpdate(warmup_steps=100)])
def test_what_is_written_without_defaults_keeps_the_kind(record: RefLoRASUpdate) -> None:
    own = method(name="lora", update=record)
    assert method(**own.model_dump(exclude_unset=True)) == own


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"init": "gaussian", "start": "gaussian"}, "init is another name of start"),
        (
            {"update": {"kind": "reflora", "warmup_steps": 3}, "refactor": {"warmup_steps": 4}},
            "warmup_steps is given twice: 3 for the update rule, and 4 in refactor",
        ),
        ({"name": "lora", "refactor": {"warmup_steps": -1}}, "greater than or equal to 0"),
        ({"name": "lora", "refactor": {"warmup": 1}}, "Extra inputs"),
        ({"name": "lora", "refactor": 3}, "valid dictionary"),
        ({"update": {"kind": "reflroa"}}, "'plain', 'reflora'"),
        ({"update": {"kind": ["reflora"]}}, "'plain', 'reflora'"),
        ({"update": {"kind": None}}, "'plain', 'reflora'"),
        ({"update": None}, "valid dictionary"),
        ({"update": 3}, "valid dictionary"),
        ({"update": ["reflora"]}, "valid dictionary"),
        ({"update": {"kind": "reflora-s", "damping": 0.1}}, "Extra inputs"),
        ({"update": {"kind": "reflora", "damping": 1.0}}, "less than 1"),
        ({"layer": {"kind": "lora", "rank": 3}}, "Extra inputs"),
        ({"start": "default", "layer": "xyz"}, "'lora', 'dora'"),
    ],
)
def test_wrong_spellings(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        method(**values)


def test_refactor_goes_before_the_fields_of_a_preset() -> None:
    """A preset's own value contradicts nobody, and stays where nothing else is said."""
    preset = {"update": {"kind": "scaled-gd", "warmup_steps": 0}}
    own = {"refactor": {"warmup_steps": 5, "interval": 2}}
    assert spelled_out(own, preset)["update"] == {"kind": "scaled-gd", "warmup_steps": 5, "interval": 2}
    assert spelled_out({"update": "scaled-gd"}, preset)["update"] == {"kind": "scaled-gd", "warmup_steps": 0}
    assert spelled_out({"update": {"interval": 3}}, preset)["update"]["warmup_steps"] == 0
    assert spelled_out({"update": "reflora"}, preset)["update"] == {"kind": "reflora"}
