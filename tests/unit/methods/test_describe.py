"""What is shown of methods comes from their records: a record that nobody has heard of is shown as well."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from pydantic import Field, ValidationError

from reflora_cli.ground.errors import InputError
from reflora_cli.methods import describe
from reflora_cli.methods.describe import CHOICES, described, listed, part_of
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.update_record import UpdateRecord

KINDS = [(axis, kind) for axis, records in CHOICES.items() for kind in records]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_tells_its_choices_and_all_their_fields(name: str) -> None:
    own, method = described(name), Method(name=name)
    assert own.source == PRESETS[name].source
    assert {part.axis: part.kind for part in own.parts} == {axis: getattr(method, axis).kind for axis in CHOICES}
    for part in own.parts:
        choice = getattr(method, part.axis)
        assert {field.name: field.default for field in part.fields} == choice.model_dump(exclude={"kind"})
        assert all(field.description for field in part.fields)
        assert part.formula
        assert part.source == choice.source


@pytest.mark.parametrize(("axis", "kind"), KINDS)
@pytest.mark.parametrize("name", PRESETS)
def test_it_says_what_it_goes_with_as_a_recipe_would_find_out(name: str, axis: str, kind: str) -> None:
    own = described(name)
    try:
        Method.model_validate({"name": name, axis: kind})
        accepted = True
    except ValidationError:
        accepted = False
    assert (kind in own.composes[axis]) is accepted
    assert (f"{axis} {kind}" in own.refusals) is not accepted


def test_refusals_are_reasons_in_words() -> None:
    own = described("lora-rite")
    assert own.refusals["layer vera"] == (
        "method.update=lora-rite is for pairs A, B, and method.layer=vera trains none"
    )
    assert "layer: lora, dora" in listed(own)
    assert "start: all" in listed(own)


def test_what_a_preset_sets_beside_its_choices() -> None:
    assert described("lora+").settings == {"lr_ratio": 16.0}
    assert described("lora").settings == {}


def test_a_choice_without_a_preset_of_its_name_is_told_alone() -> None:
    (part,) = described("gaussian").parts
    assert (part.axis, part.kind) == ("start", "gaussian")


class UnheardUpdate(UpdateRecord):
    """Steps that nobody has taken yet."""

    kind: Literal["unheard"] = Field("unheard", description="new steps")
    depth: int = Field(3, description="how deep it looks")
    source: ClassVar[str] = "Nobody 2030"
    needs_full_rank: ClassVar[bool] = True


def test_a_new_record_is_told_without_being_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "CHOICES", {"update": {"unheard": UnheardUpdate}})
    (part,) = described("unheard").parts
    assert part == part_of("update", UnheardUpdate())
    assert (part.formula, part.source) == ("Steps that nobody has taken yet.", "Nobody 2030")
    assert [(field.name, field.default, field.description) for field in part.fields] == [
        ("depth", 3, "how deep it looks")
    ]
    assert any("min(out, in)" in text for text in part.needs)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'pissa'"):
        described("pisa")
