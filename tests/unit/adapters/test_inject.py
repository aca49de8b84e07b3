"""Which modules a target names, and what is left trainable."""

from __future__ import annotations

import pytest
import torch

from reflora_cli.adapters.inject import too_small
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.targets import match_targets
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import injected, make


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (("query",), 2),
        (("query", "value"), 4),
        (("output.dense",), 4),
        (("attention.output.dense",), 2),
        (("bert.encoder.layer.1.output.dense",), 1),
        ((r".*layer\.0\..*(query|key)",), 2),
        ("all-linear", 13),
    ],
)
def test_targets_match_whole_path_parts(targets: tuple[str, ...], count: int) -> None:
    found = match_targets(make("bert"), targets, ["classifier"])
    assert sum(map(len, found.values())) == count


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (("uery",), "'query'"),
        (("query", "quer", "vlaue"), "'vlaue'"),
        (("classifier",), "trained and saved whole"),
        ((r"layer\.0",), "matches no linear layer"),
        (("LayerNorm",), "matches no linear layer"),
    ],
)
def test_every_pattern_must_match(targets: tuple[str, ...], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        match_targets(make("bert"), targets, ["classifier"])
    assert expected in str(caught.value)


def test_all_linear_leaves_the_output_embedding_alone() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=8, tie_word_embeddings=False,
    )  # fmt: skip
    found = match_targets(LlamaForCausalLM(config), "all-linear", [])["all-linear"]
    assert len(found) == 7
    assert "lm_head" not in found


def test_fresh_module_that_is_not_trained_is_neither_adapted_nor_trained() -> None:
    """As the reference leaves DeBERTa's pooler: frozen, yet saved."""
    model = make("deberta")
    adapted = injected(model, Method(name="lora", rank=2), ["classifier"], ["classifier", "pooler"], seed=0)
    assert not any(name.startswith("pooler") for name in adapted.layers)
    assert set(adapted.others) == {"classifier.weight", "classifier.bias"}
    assert not any(parameter.requires_grad for parameter in model.pooler.parameters())


def test_reflora_refuses_a_rank_beyond_the_weight() -> None:
    with pytest.raises(InputError, match="at most 16"):
        injected(make("bert"), Method(name="reflora", rank=17), ["classifier"], ["classifier"], seed=0)
    injected(make("bert"), Method(name="lora", rank=17), ["classifier"], ["classifier"], seed=0)


def test_weights_smaller_than_a_rank_are_known_before_they_are_adapted() -> None:
    model, names = make("bert"), ["bert.pooler.dense", "classifier"]
    assert too_small(model, Method(name="reflora", rank=4), names) == ["classifier"]
    assert too_small(model, Method(name="lora", rank=4), names) == []
    adapted = injected(model, Method(name="reflora", rank=4), [], [], seed=0, left_out=["classifier"])
    assert len(adapted.layers) == adapted.matches["all-linear"] == 13


def test_factors_are_stored_row_by_row_however_they_were_computed() -> None:
    """A run that continues has them so, and products of others round differently."""
    model = make("bert")
    (layer, *_) = injected(model, Method(name="lora"), ["classifier"], ["classifier"]).layers.values()
    assert isinstance(layer, LowRankLayer)
    A, B = torch.randn(16, 3).T, torch.randn(3, 16).T
    layer.begin(A, B)
    assert torch.equal(layer.A, A)
    assert layer.A.is_contiguous()
    assert layer.B.is_contiguous()
