"""Method records: presets, axes set by hand, refused combinations."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from reflora_cli.methods.layers import DoRALayer
from reflora_cli.methods.method import AXES, Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import RefLoRAUpdate


@pytest.mark.parametrize("name", PRESETS)
def test_preset_fills_axes_in_and_nothing_else(name: str) -> None:
    """What a preset says can be said by hand, under any other name; no other field depends on the name."""
    method = Method(name=name)
    assert method.label == name
    by_hand = Method.model_validate({**method.model_dump(), "name": "lora"})
    assert by_hand.model_dump(exclude={"name"}) == method.model_dump(exclude={"name"})
    assert method.model_dump(exclude={"name", *AXES}) == Method(name="lora").model_dump(exclude={"name", *AXES})


def test_presets_are_different_methods() -> None:
    by_hand = [Method.model_validate({**Method(name=name).model_dump(), "name": "lora"}) for name in PRESETS]
    assert len(set(by_hand)) == len(PRESETS)
    assert [method.label for method in by_hand if method.label == "lora"] == ["lora"]


def test_default_is_reflora() -> None:
    assert Method() == Method(name="reflora")
    assert Method().update == RefLoRAUpdate()


def test_axis_by_hand_wins_over_the_preset_and_shows_in_the_label() -> None:
    method = Method.model_validate({"name": "dora", "update": "reflora"})
    assert (method.layer, method.update) == (DoRALayer(), RefLoRAUpdate())
    assert method.label == "dora, update reflora"
    assert Method.model_validate({"name": "lora+", "lr_ratio": 4}).label == "lora+, lr_ratio 4.0"


def test_records_are_frozen_and_hashable() -> None:
    method = Method.model_validate({"targets": ["q_proj"], "trainable_modules": ["score"]})
    assert method.targets == ("q_proj",)
    assert hash(method) == hash(Method.model_validate({"targets": ["q_proj"], "trainable_modules": ["score"]}))
    with pytest.raises(ValidationError, match="frozen"):
        method.rank = 4


@pytest.mark.parametrize("damping", ["auto", 0, 0.0, 1e-3, 0.999])
def test_damping(damping: Any) -> None:
    assert Refactor.model_validate({"damping": damping}).damping == damping


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "reflroa"}, "unknown method 'reflroa'; presets: lora,"),
        ({"targets": []}, "targets is empty.*name modules, or set method.targets=all-linear"),
        ({"update": "reflora", "refactor": {"warmup_steps": 0}}, "at B = 0 .*; raise warmup_steps to at least 1"),
        ({"name": "reflora", "refactor": {"warmup_steps": 0}}, "cannot act with warmup_steps 0"),
        ({"targets": "query_proj"}, "valid tuple"),
        ({"targets": [""]}, "at least 1 character"),
        ({"targets": [1]}, "valid string"),
        ({"rank": 0}, "greater than or equal to 1"),
        ({"rank": 8.0}, "valid integer"),
        ({"rank": True}, "valid integer"),
        ({"rank": "8"}, "valid integer"),
        ({"alpha": 0}, "greater than 0"),
        ({"alpha": float("nan")}, "finite"),
        ({"dropout": 1.0}, "less than 1"),
        ({"lr_ratio": float("inf")}, "finite"),
        ({"layer": "lokr"}, "'lora', 'dora'"),
        ({"refactor": {"interval": 0}}, "greater than or equal to 1"),
        ({"refactor": {"damping": 1}}, "less than 1"),
        ({"refactor": {"damping": "atuo"}}, "'auto'"),
        ({"refactor": {"warmup": 3}}, "Extra inputs"),
        ({"rnak": 3}, "Extra inputs"),
        ({"name": ["lora"]}, "valid string"),
        (["lora"], "valid dictionary"),
        ({"name": "full", "rank": 4}, "rank=4 is for adapters, and method.layer=full trains the base's own parameters"),
        ({"name": "full", "dropout": 0.1}, "dropout=0.1 is for adapters"),
        ({"name": "full", "lr_ratio": 2.0}, "leave method.lr_ratio out"),
        ({"name": "bitfit", "update": "reflora"}, "update=reflora is for adapters.*own biases"),
        ({"name": "bitfit", "start": "gaussian"}, "start=gaussian is for adapters"),
        ({"name": "rslora", "layer": "bias"}, "scaling=rslora is for adapters"),
    ],
)
def test_refused(values: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Method.model_validate(values)


def test_warmup_zero_is_fine_where_it_can_start() -> None:
    for name in set(PRESETS) - {"reflora", "scaled-gd"}:
        assert Method(name=name, refactor=Refactor(warmup_steps=0)).update.plain_steps == 0


@pytest.mark.parametrize("name", ["eva", "corda", "lora-ga", "lora-one"])
def test_a_start_that_looks_at_rows_is_refused_where_an_adapter_is_the_start(name: str) -> None:
    with pytest.raises(ValidationError, match=f"start={name} would have no effect: A and B continue from method.after"):
        Method(name=name, after="run")
    update = {"kind": "scaled-gd", "warmup_steps": 1}
    assert Method(name=name, start="default", update=update, after="run").after == "run"
    assert Method(name=name).start.sees_data


@pytest.mark.parametrize("values", [{"rho": 0.5}, {"tau": 0.0}, {"tau": 1.5}, {"rows": 0}])
def test_values_of_eva_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Method(name="eva", start={"kind": "eva", **values})
