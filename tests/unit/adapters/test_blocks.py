"""Where a block's attention and feed-forward end, in the families of architectures."""

from __future__ import annotations

import pytest
from torch import nn

from reflora_cli.adapters.blocks import matched_places
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.axes import Place
from tests.architectures import DECODERS, ENCODERS
from tests.random_models import classifier, language_model

KNOWN = {
    "bert": ("attention.output.dense", "output.dense"),
    "roberta": ("attention.output.dense", "output.dense"),
    "electra": ("attention.output.dense", "output.dense"),
    "deberta-v2": ("attention.output.dense", "output.dense"),
    "distilbert": ("attention.out_lin", "ffn.lin2"),
    "modernbert": ("attn.Wo", "mlp.Wo"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen2": ("self_attn.o_proj", "mlp.down_proj"),
    "qwen3": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "gpt-neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.out_proj", "fc2"),
    "phi": ("self_attn.dense", "mlp.fc2"),
}


def made(name: str) -> nn.Module:
    return classifier(ENCODERS[name]) if name in ENCODERS else language_model(DECODERS[name])


@pytest.mark.parametrize("name", KNOWN)
def test_every_block_has_both_places_once(name: str) -> None:
    """Each is as wide as the residual stream, and the model's config says how many blocks there are."""
    model = made(name)
    found = matched_places(model, tuple(Place), [])
    assert list(found) == ["attention outputs", "feed-forward outputs"]
    for names, ending in zip(found.values(), KNOWN[name], strict=True):
        assert len(names) == model.config.num_hidden_layers
        assert all(name.endswith(f".{index}.{ending}") for index, name in enumerate(names))
        outs = {getattr(model.get_submodule(own), "out_features", None) for own in names} - {None}
        assert outs <= {model.config.hidden_size}
    assert list(matched_places(model, (Place.FEED_FORWARD,), [])) == ["feed-forward outputs"]


@pytest.mark.parametrize("name", ["mixtral", "deepseek-v3", "t5", "mamba", "albert"])
def test_blocks_of_another_kind_are_refused_with_the_way_out(name: str) -> None:
    """Experts have no linear layer of their own, and an encoder-decoder's blocks have two attentions."""
    with pytest.raises(InputError, match="cannot be found in a") as caught:
        matched_places(made(name), (Place.FEED_FORWARD,), [])
    assert "method.targets" in caught.value.problems[0].remedy
