"""Counted parameters are those of a real model."""

from __future__ import annotations

import peft
import pytest
from torch import nn
from transformers import AutoModel

from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.model.counting import USUAL_BASE, config_named, counts, trained_parameters
from reflora_cli.model.sources import find_source

TINY = "builtin:tiny-llama"


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (Method(name="lora", rank=4), peft.LoraConfig(r=4, target_modules="all-linear")),
        (Method(name="dora", rank=4), peft.LoraConfig(r=4, use_dora=True, target_modules="all-linear")),
        (Method(name="prompt"), peft.PromptTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=20)),
        (Method(name="prefix"), peft.PrefixTuningConfig(task_type="FEATURE_EXTRACTION", num_virtual_tokens=20)),
        (Method(name="vera", rank=16), peft.VeraConfig(r=16, target_modules="all-linear")),
    ],
)
def test_as_many_as_peft_trains(method: Method, settings: peft.PeftConfig) -> None:
    model = peft.get_peft_model(AutoModel.from_pretrained(find_source(TINY, None).location), settings)
    expected = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained_parameters(config_named(TINY), method) == expected > 0


def test_all_of_a_base() -> None:
    model: nn.Module = AutoModel.from_pretrained(find_source(TINY, None).location)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert trained_parameters(config_named(TINY), Method(name="full")) == expected


def test_the_usual_base_is_counted_without_a_network() -> None:
    """DeBERTaV3-base as published: 12 layers of six matrices, 768 and 3072 wide, and 183.8 million parameters."""
    found = counts(USUAL_BASE, {name: Method(name=name) for name in PRESETS})
    assert found.keys() == PRESETS.keys()
    assert found["lora"] == 12 * 8 * (4 * 2 * 768 + 2 * (768 + 3072))
    assert found["houlsby"] == 2 * found["pfeiffer"] == 24 * (8 * 768 * 2 + 8 + 768)
    assert (found["prompt"], found["prefix"]) == (20 * 768, None)
    assert found["full"] == 183_831_552


def test_a_base_with_nothing_to_train_has_no_number() -> None:
    assert counts(TINY, {"bitfit": Method(name="bitfit")}) == {"bitfit": None}


def test_an_unknown_base_is_refused() -> None:
    with pytest.raises(InputError):
        config_named("nobody/nothing-of-this-name")


def test_methods_that_are_counted_together_have_the_numbers_of_each_alone() -> None:
    """Also where they differ in rank or targets only."""
    more = {"rank": Method(name="lora", rank=3), "targets": Method(name="lora", targets=("q_proj",))}
    methods = {**{name: Method(name=name) for name in PRESETS}, **more}
    found = counts(TINY, methods)
    assert found == {name: counts(TINY, {name: method})[name] for name, method in methods.items()}
    assert len({found["lora"], found["rank"], found["targets"], found["dora"]}) == 4
