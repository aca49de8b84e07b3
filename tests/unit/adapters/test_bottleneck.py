"""Bottleneck adapters: their formula, their size, their places and what they begin with."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification

from reflora_cli.adapters.bottleneck import BottleneckLinear
from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.quantized import quantize
from reflora_cli.factors.pair import Role
from reflora_cli.methods.method import Method
from tests.models import HEADS, MODELS, descend, injected, make

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "relu": lambda x: x.clamp_min(0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
}
ENDINGS = {
    "bert": ("attention.output.dense", "output.dense"),
    "deberta": ("attention.output.dense", "output.dense"),
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
}


def filled(frozen: Any, activation: Any) -> BottleneckLinear:
    layer = BottleneckLinear(frozen, 3, activation, 0.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (layer.get_parameter(name) for name in layer.roles()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return layer


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_output_and_gradients_are_those_of_the_formula(activation: str) -> None:
    """In float64, by autograd over the formula itself."""
    torch.manual_seed(0)
    linear = nn.Linear(5, 7)
    layer = filled(freeze(linear), activation)
    x = torch.randn(2, 4, 5, requires_grad=True)
    y = layer(x)
    weights = torch.randn(y.shape)
    (y * weights).sum().backward()
    W, b = linear.weight.detach().double(), linear.bias.detach().double()
    own = {name: layer.get_parameter(name).detach().double().requires_grad_() for name in layer.roles()}
    x64 = x.detach().double().requires_grad_()
    h = x64 @ W.T + b
    expected = h + ACTIVATIONS[activation](h @ own["down"].T + own["down_bias"]) @ own["up"].T + own["up_bias"]
    (expected * weights.double()).sum().backward()
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    assert x.grad is not None
    assert x64.grad is not None
    torch.testing.assert_close(x.grad.double(), x64.grad, atol=1e-5, rtol=1e-5)
    for name, parameter in own.items():
        found = layer.get_parameter(name).grad
        assert found is not None
        assert parameter.grad is not None
        torch.testing.assert_close(found.double(), parameter.grad, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", [None, "nf4"])
def test_a_plain_module_computes_the_same(kind: Any) -> None:
    """Also on a quantized weight, which is dequantized for it."""
    torch.manual_seed(0)
    linear = nn.Linear(64, 64)
    W, b = linear.weight.detach(), linear.bias.detach()
    few_bits = {"double": True, "dtype": torch.float32, "layout": nn.Linear}
    frozen = freeze(linear) if kind is None else quantize(W, b, kind, **few_bits)
    layer = filled(frozen, "gelu")
    plain = layer.plain(torch.float32)
    assert not list(plain.parameters()) or not any(own.requires_grad for own in plain.parameters())
    assert not any(isinstance(own, type(frozen)) for own in plain.modules())
    x = torch.randn(3, 64)
    torch.testing.assert_close(plain(x), layer(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(TypeError, match="no weight"):
        layer.merged()


class Behind(nn.Module):
    """A bottleneck of ordinary linear layers behind a module."""

    def __init__(self, module: nn.Module, layer: BottleneckLinear) -> None:
        super().__init__()
        rank, width = layer.down.shape
        self.module, self.down, self.up = module, nn.Linear(width, rank), nn.Linear(rank, width)
        with torch.no_grad():
            for own, name in ((self.down, "down"), (self.up, "up")):
                own.weight.copy_(layer.get_parameter(name))
                own.bias.copy_(layer.get_parameter(f"{name}_bias"))

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.module(x)
        return h + self.up(F.gelu(self.down(h)))


@pytest.mark.parametrize("preset", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("name", list(MODELS))
def test_twenty_steps_are_those_of_ordinary_modules(name: str, preset: str) -> None:
    """PEFT has no such adapters: torch's linear layers are put at the places instead, from equal states."""
    base = make(name)
    ours, theirs = copy.deepcopy(base), base.requires_grad_(False)
    method = Method(name=preset, rank=4, layer={"kind": preset, "activation": "gelu"})
    adapted = injected(ours, method, HEADS[name], HEADS[name], seed=3)
    endings = ENDINGS[name] if preset == "houlsby" else ENDINGS[name][1:]
    paths = [p for p, _ in theirs.named_modules() if any(p.endswith(f"{n}.{e}") for e in endings for n in (0, 1))]
    assert sorted(paths) == sorted(adapted.layers)
    assert len(paths) == len(endings) * 2
    for path in paths:
        layer = adapted.layers[path]
        assert isinstance(layer, BottleneckLinear)
        theirs.set_submodule(path, Behind(theirs.get_submodule(path), layer))
    for head in HEADS[name]:
        theirs.get_submodule(head).requires_grad_(True)
    assert descend(ours) == pytest.approx(descend(theirs), abs=1e-5)
    for path, layer in adapted.layers.items():
        other = theirs.get_submodule(path)
        assert isinstance(other, Behind)
        assert layer.get_parameter("up").abs().max() > 1e-2
        for key, own in (("down", other.down), ("up", other.up)):
            torch.testing.assert_close(layer.get_parameter(key), own.weight, atol=1e-5, rtol=0)
            torch.testing.assert_close(layer.get_parameter(f"{key}_bias"), own.bias, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("preset", "rank", "count"), [("houlsby", 32, 1_198_848), ("pfeiffer", 64, 1_189_632)])
def test_the_numbers_of_parameters_on_deberta_v3_base(preset: str, rank: int, count: int) -> None:
    """12 k (2 r 768 + r + 768), which tables of papers round to 1.22 and 1.18 million."""
    config = AutoConfig.for_model(
        "deberta-v2", hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072,
        relative_attention=True, position_buckets=256, pos_att_type=["p2c", "c2p"], norm_rel_ebd="layer_norm",
        share_att_key=True, vocab_size=128100, type_vocab_size=0, position_biased_input=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    adapted = injected_on_meta(model, Method(name=preset, rank=rank))
    assert sum(own.numel() for own in adapted.parameters.values()) == count


def injected_on_meta(model: nn.Module, method: Method) -> Any:
    from reflora_cli.adapters.inject import inject

    return inject(model, method, [], ["classifier", "pooler"])


def test_it_begins_as_its_base_from_the_seed_and_the_name() -> None:
    first, again, other = (
        injected(make("bert"), Method(name="houlsby", rank=3, targets=targets), [], [], seed=seed)
        for seed, targets in ((5, "all-linear"), (5, ("bert.encoder.layer.1.output.dense",)), (6, "all-linear"))
    )
    path = "bert.encoder.layer.1.output.dense"
    layer, same, drawn = (adapted.layers[path] for adapted in (first, again, other))
    down = layer.get_parameter("down")
    assert torch.equal(down, same.get_parameter("down"))
    assert not torch.equal(down, drawn.get_parameter("down"))
    assert 0.5 < down.abs().max() * down.shape[1] ** 0.5 <= 1
    assert not any(layer.get_parameter(name).any() for name in ("down_bias", "up", "up_bias"))
    assert {key for key, role in layer.roles().items() if role is Role.DECAYED} == {"down", "up"}


def test_dropout_is_on_the_input_of_the_bottleneck() -> None:
    layer = filled(freeze(nn.Linear(4, 4)), "relu")
    layer.dropout.p = 1.0
    x = torch.randn(2, 4)
    h = layer.frozen(x)
    expected = h + F.linear(layer.down_bias.clamp_min(0), layer.up, layer.up_bias)
    torch.testing.assert_close(layer.train()(x), expected)
    assert not torch.allclose(layer.eval()(x), expected)
