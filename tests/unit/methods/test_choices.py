"""What choices say of themselves: every record of every union, found by itself."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from reflora_cli.methods.layers import LAYERS, DoRALayer, LayerKind, LoRALayer, layer_of
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.starts import STARTS, StartKind
from reflora_cli.methods.update_record import AUTO_DAMPING, Refactor
from reflora_cli.methods.updates import UPDATES, LoRARITEUpdate, RefLoRAUpdate, ScaledGDUpdate, UpdateKind

RECORDS = [*LAYERS.values(), *STARTS.values(), *UPDATES.values()]
PAPER = re.compile(r"\b20\d\d\b.*arXiv \d{4}\.\d{5}|rethink-lora-init, 2024")


def test_kinds_are_those_of_the_unions() -> None:
    assert tuple(LAYERS) == get_args(LayerKind)
    assert tuple(STARTS) == get_args(StartKind)
    assert tuple(UPDATES) == get_args(UpdateKind)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_a_record_is_frozen_closed_and_described(record: Any) -> None:
    own = record()
    assert str(own) == own.kind
    assert [key for key, field in record.model_fields.items() if key != "kind" and not field.description] == []
    assert next(iter(record.model_fields)) == "kind"
    with pytest.raises(ValidationError, match="frozen"):
        own.kind = "other"
    with pytest.raises(ValidationError, match="Extra inputs"):
        record.model_validate({"kind": own.kind, "unknown_key": 1})


def test_layers_rules_and_presets_name_their_papers() -> None:
    acting = [record for record in UPDATES.values() if not record.is_plain]
    assert len(acting) == len(UPDATES) - 1
    assert [own for own in (*LAYERS.values(), *acting, *PRESETS.values()) if not PAPER.search(own.source)] == []
    assert [record for record in acting if not record.acts] == []


@pytest.mark.parametrize("layer", LAYERS.values())
def test_peft_s_settings_tell_layers_apart(layer: Any) -> None:
    """But for one whose files are those of another."""
    assert layer_of(layer.peft_type, layer.peft_flags) == LAYERS[layer.read_as or layer().kind]()


def test_a_layer_that_peft_has_and_we_have_not() -> None:
    assert layer_of("LORA", {"use_dora": False, "use_rslora": True}) == LoRALayer()
    assert layer_of("LORA", {"use_dora": True, "use_rslora": True}) == DoRALayer()
    with pytest.raises(KeyError, match="LOHA"):
        layer_of("LOHA", {"use_dora": False})


WITHOUT_PAIRS = [kind for kind, layer in LAYERS.items() if not layer.has_pairs and not layer.in_place]
WITH_FRAMES = [kind for kind, layer in LAYERS.items() if layer.has_frames]
OF_FRAMES = [kind for kind, update in UPDATES.items() if update.of_frames]


@pytest.mark.parametrize("layer", WITHOUT_PAIRS)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("update", kind) for kind in UPDATES if kind not in ("plain", *OF_FRAMES)),
        *(("start", kind) for kind in STARTS if kind != "default"),
        ("scaling", "rslora"),
        ("lr_ratio", 16.0),
    ],
)
def test_settings_of_pairs_are_refused_for_a_layer_without(layer: str, key: str, value: Any) -> None:
    if key == "scaling" and layer in WITH_FRAMES:
        assert Method.model_validate({"name": layer, key: value}).summary.endswith("scaling rslora, rank 8, alpha 8")
        return
    for preset in ({"name": layer}, {"name": "lora", "layer": layer}):
        with pytest.raises(
            ValidationError, match=rf"{key}={value} is for pairs A, B, and method.layer={layer} trains none"
        ):
            Method.model_validate({**preset, key: value})
        assert Method.model_validate(preset).layer.kind == layer


@pytest.mark.parametrize("layer", WITHOUT_PAIRS)
def test_the_default_preset_s_rule_is_refused_with_the_way_out(layer: str) -> None:
    with pytest.raises(ValidationError, match=r"set method\.update=plain, or method\.name to the preset of this layer"):
        Method.model_validate({"layer": layer})


def test_rules_of_frames_are_refused_without_any() -> None:
    assert (WITH_FRAMES, OF_FRAMES) == (["stella"], ["stiefel"])
    for layer in LAYERS:
        if layer in WITH_FRAMES or LAYERS[layer].in_place:
            continue
        with pytest.raises(
            ValidationError, match=rf"update=stiefel is for orthonormal frames, and method.layer={layer} has none"
        ):
            Method.model_validate({"name": "lora", "layer": layer, "update": "stiefel"})


def test_stella_is_a_layer_and_a_rule_and_begins_off_its_base_unless_told_otherwise() -> None:
    method = Method(name="stella", rank=4)
    assert (method.layer.kind, method.update.kind, method.needs_full_rank) == ("stella", "stiefel", True)
    assert not method.layer.begins_as_base
    assert Method(name="stella", layer={"s_initial": 0.0}).layer.begins_as_base
    assert Method(name="stella", update="plain").needs_full_rank
    for wrong in ({"width": 0}, {"width": "wide"}, {"retraction": "qr"}, {"damping": 0.1}):
        with pytest.raises(ValidationError):
            Method.model_validate({"name": "stella", "update": wrong})


def test_a_summary_names_what_counts() -> None:
    assert Method(name="lora", rank=4, alpha=8.0).summary == "lora, rank 4, alpha 8"
    assert Method(name="vera", rank=256, alpha=8.0).summary == "vera, rank 256"
    assert Method(name="full").summary == "full"


@pytest.mark.parametrize("record", [RefLoRAUpdate, ScaledGDUpdate, LoRARITEUpdate])
def test_damping_is_the_measured_one_unless_it_is_given(record: Any) -> None:
    assert record().damping_share == record(damping="auto").damping_share == AUTO_DAMPING == 1e-3
    assert record(damping=0.0).damping_share == 0.0
    assert record(damping=0.25).damping_share == 0.25


def test_rules_without_damping_have_no_share() -> None:
    with_damping = {kind for kind, record in UPDATES.items() if "damping" in record.model_fields}
    assert "reflora" in with_damping
    assert {kind for kind, record in UPDATES.items() if record().damping_share is not None} == with_damping


@pytest.mark.parametrize("kind", UPDATES)
def test_warm_up_zero_is_refused_exactly_where_a_rule_is_stuck_at_zero(kind: str) -> None:
    layer = "stella" if UPDATES[kind].of_frames else "lora"
    values = {"layer": layer, "update": kind, "refactor": {"warmup_steps": 0}}
    if not UPDATES[kind]().needs_warmup_at_zero:
        assert Method.model_validate(values).update.plain_steps == 0
        return
    with pytest.raises(ValidationError, match=f"update={kind} cannot act with warmup_steps 0: at B = 0"):
        Method.model_validate(values)
    # The factors of an earlier adapter are not zero, or are refused when they are read.
    assert Method.model_validate({**values, "after": "runs/earlier"}).update.plain_steps == 0


def test_the_section_refactor_has_the_fields_of_several_rules_with_the_defaults_of_the_first() -> None:
    for key, default in Refactor().model_dump().items():
        having = [record() for record in UPDATES.values() if key in record.model_fields]
        assert len(having) > 1
        assert getattr(having[0], key) == default


def test_layers_in_place_say_what_they_train() -> None:
    in_place = {kind: record() for kind, record in LAYERS.items() if record.in_place}
    assert list(in_place) == ["bias", "full"]
    names = ("a.bias", "a.weight", "moe.up_proj_bias", "bias.weight", "biased", "bias")
    assert [name for name in names if in_place["bias"].trains(name)] == ["a.bias", "moe.up_proj_bias", "bias"]
    assert all(in_place["full"].trains(name) for name in names)
    assert not any(record().trains(name) for record in LAYERS.values() for name in names if not record.in_place)
    assert [own for own in LAYERS.values() if own.in_place and not own.not_for_peft] == []
