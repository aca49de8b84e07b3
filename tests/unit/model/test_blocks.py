"""The repeated blocks of a model are found without their names."""

from __future__ import annotations

import pytest
from torch import nn

from reflora_cli.model.blocks import block_lists, first_blocks, named_blocks
from tests.architectures import DECODERS, ENCODERS
from tests.models import MODELS, make
from tests.random_models import classifier

KINDS = {"bert": "BertLayer", "deberta": "DebertaV2Layer", "gpt2": "GPT2Block", "llama": "LlamaDecoderLayer"}


@pytest.mark.parametrize(("name", "kind"), zip(MODELS, KINDS.values(), strict=True))
def test_blocks_are_found_in_any_model(name: str, kind: str) -> None:
    model = make(name)
    blocks = named_blocks(model)
    assert {type(block).__name__ for block in blocks.values()} == {kind}
    assert len(blocks) == model.config.num_hidden_layers
    assert all(model.get_submodule(own) is block for own, block in blocks.items())


def test_an_encoder_comes_before_its_decoder() -> None:
    lists = block_lists(classifier((ENCODERS | DECODERS)["bart"]))
    assert list(lists) == ["model.encoder.layers", "model.decoder.layers"]


def test_blocks_of_different_kinds_in_one_list_are_blocks_with_all_that_they_hold() -> None:
    """Jamba's are of two kinds, and each expert of one stands in a list too."""
    model = classifier((ENCODERS | DECODERS)["jamba"])
    blocks = named_blocks(model)
    assert len(blocks) == model.config.num_hidden_layers
    assert len({type(block) for block in blocks.values()}) == 2


def test_a_list_of_lists_stands_for_those_and_an_empty_one_for_nothing() -> None:
    inner = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    block = nn.Sequential(nn.ModuleList([nn.ReLU()]))
    model = nn.Sequential(nn.ModuleList([inner, nn.ModuleList()]), nn.ModuleList([block]), nn.ModuleList())
    assert named_blocks(model) == {"0.0.0": inner[0], "0.0.1": inner[1], "1.0": block}
    assert first_blocks(model) is inner
    assert first_blocks(nn.Linear(1, 1)) is None
