"""Streamed bases of many architectures: logits and gradients of a resident one, with one block in memory at a time."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from reflora_cli.adapters.block_stream import BlockStream
from reflora_cli.methods.settings import Streaming
from reflora_cli.model.sources import Source
from reflora_cli.model.streaming import stream_blocks, stream_of
from tests.architectures import DECODERS, ENCODERS, Architecture
from tests.random_models import classifier, language_model

SEQUENCE = {
    "Bert",
    "DebertaV2",
    "Roberta",
    "Albert",
    "DistilBert",
    "MPNet",
    "ModernBert",
    "Electra",
    "FNet",
    "Longformer",
}
WRITING = {
    "Llama",
    "GPT2",
    "GPTNeoX",
    "Gemma2",
    "Mamba",
    "FalconMamba",
    "Jamba",
    "Mixtral",
    "Qwen3",
    "DeepseekV3",
    "Bloom",
}
SOURCE = Source("base", "base", None, is_local=True)
CHOSEN = [(classifier, own) for own in ENCODERS.values() if own.name in SEQUENCE]
CHOSEN += [(language_model, own) for own in DECODERS.values() if own.name in WRITING]


def outcome(model: Any) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient that reaches the embeddings through all blocks."""
    model.eval().requires_grad_(False)
    weight = model.get_input_embeddings().weight.requires_grad_(True)
    ids = torch.arange(5, 25).view(2, 10)
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    logits.square().sum().backward()
    return logits.detach(), weight.grad


@pytest.mark.parametrize(("make", "architecture"), CHOSEN, ids=[own.name for _, own in CHOSEN])
def test_logits_and_gradients_are_those_of_a_resident_base(
    make: Any, architecture: Architecture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BlockStream, "expected", lambda _, number, __: number)  # so that no second block is kept
    torch.manual_seed(0)
    plain = make(architecture)
    model = copy.deepcopy(plain)
    stream_blocks(model, Streaming.HOST, SOURCE, ())
    assert stream_of(model) is not None
    found, expected = outcome(model), outcome(plain)
    for own, other in zip(found, expected, strict=True):
        assert (own - other).abs().max() <= 1e-6 * other.abs().max()


def test_all_chosen_architectures_are_known() -> None:
    assert {own.name for _, own in CHOSEN} == SEQUENCE | WRITING
