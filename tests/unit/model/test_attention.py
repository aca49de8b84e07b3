"""The function that computes attention: what was asked for, what was taken, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import Attention
from reflora_cli.model.attention import attention_of, lacking, refuse_attention, section_on
from reflora_cli.model.classifier import load_classifier
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.registry import find_task
from tests.architectures import DECODERS, ENCODERS
from tests.random_models import classifier

CPU, GPU = torch.device("cpu"), torch.device("cuda")
HARD = (Attention.FLASH_ATTENTION_2, Attention.FLASH_ATTENTION_3, Attention.FLEX_ATTENTION)


def saved(name: str, place: Path) -> str:
    """A tiny model with its tokenizer in a directory."""
    architecture = (ENCODERS | DECODERS)[name]
    classifier(architecture).save_pretrained(place)
    architecture.tokenizer().save_pretrained(place)
    return str(place)


def loaded_attention(place: str, attention: Attention) -> str:
    task = find_task("glue/sst2")
    assert isinstance(task, SequenceTask)
    section = ModelSection(name=place, attention=attention)
    return attention_of(load_classifier(section, None, task, dtype=torch.float32, seed=0).model)


@pytest.mark.parametrize(
    ("name", "asked", "taken"),
    [
        ("bert", Attention.AUTO, "sdpa"),
        ("bert", Attention.EAGER, "eager"),
        ("llama", Attention.SDPA, "sdpa"),
        ("deberta-v2", Attention.AUTO, "eager"),
        ("deberta-v2", Attention.EAGER, "eager"),
    ],
)
def test_a_model_computes_attention_as_asked(name: str, asked: Attention, taken: str, tmp_path: Path) -> None:
    assert loaded_attention(saved(name, tmp_path), asked) == taken


def test_a_model_that_cannot_is_refused(tmp_path: Path) -> None:
    place = saved("deberta-v2", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"damaged: no weight may be read before")
    with pytest.raises(InputError, match="deberta-v2 model does not support this attention") as refused:
        loaded_attention(place, Attention.SDPA)
    problem = refused.value.problems[0]
    assert (problem.where, problem.remedy) == ("model.attention", "set model.attention=auto")
    assert problem.found.startswith("sdpa: ")


@pytest.mark.parametrize("attention", HARD)
def test_a_machine_that_cannot_is_refused_and_scores_with_auto(attention: Attention) -> None:
    with pytest.raises(InputError, match="CPU") as refused:
        refuse_attention(attention, CPU, torch.float32)
    assert refused.value.problems[0].expected == "one of auto, sdpa, eager"
    section = ModelSection(name="n", attention=attention)
    assert section_on(section, CPU, torch.float32).attention is Attention.AUTO


@pytest.mark.parametrize("attention", [Attention.AUTO, Attention.SDPA, Attention.EAGER])
def test_what_every_machine_can_is_taken_as_it_is(attention: Attention) -> None:
    assert lacking(attention, CPU) == ""
    section = ModelSection(name="n", attention=attention)
    assert section_on(section, CPU, torch.float32) is section


def test_flash_attention_needs_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.utils.import_utils.is_flash_attn_2_available", lambda: True)
    refuse_attention(Attention.FLASH_ATTENTION_2, GPU, torch.bfloat16)
    with pytest.raises(InputError, match=re.escape("float32")):
        refuse_attention(Attention.FLASH_ATTENTION_2, GPU, torch.float32)
