"""LoRA-XS against its definition in float64, against PEFT's LoRA with its U held, and as a LoRA in files."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from reflora_cli import adapt
from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.lora_xs import LoRAXSLinear
from reflora_cli.adapters.quantized import quantize
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, batch, descend, injected, make

OUT, IN, RANK = 24, 40, 5


def begun(base: str = "linear", deviation: float = 1e-5) -> LoRAXSLinear:
    torch.manual_seed(0)
    linear = nn.Linear(IN, OUT)
    frozen = freeze(linear)
    if base == "nf4":
        frozen = quantize(linear.weight.data, linear.bias, base, double=True, dtype=torch.float32, layout=nn.Linear)
    layer = LoRAXSLinear(frozen, RANK, 0.5, 0.0, deviation)
    layer.start_itself(torch.Generator().manual_seed(1))
    return layer


@pytest.mark.parametrize("base", ["linear", "nf4"])
def test_u_and_v_are_the_strongest_part_of_the_frozen_weight_and_x_is_small(base: str) -> None:
    layer = begun(base)
    W = layer.frozen.dense().double()
    U, sigma, V = torch.linalg.svd(W, full_matrices=False)
    best = U[:, :RANK] @ torch.diag(sigma[:RANK]) @ V[:RANK]
    torch.testing.assert_close(layer.U.double() @ layer.V.double(), best, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.U.T @ layer.U, torch.eye(RANK), atol=1e-5, rtol=0)
    assert 3e-6 < layer.X.std() < 3e-5
    assert not begun(base, deviation=0.0).X.any()


@pytest.mark.parametrize("base", ["linear", "nf4"])
def test_value_gradients_and_merged_weight_are_those_of_the_definition(base: str) -> None:
    layer = begun(base)
    layer.X.data.normal_()
    x, upstream = torch.randn(6, IN, requires_grad=True), torch.randn(6, OUT)
    y = layer(x)
    found = torch.autograd.grad(y, [x, layer.X], upstream)
    X, M = (own.detach().double().requires_grad_() for own in (x, layer.X))
    W = layer.frozen.dense().double() + 0.5 * layer.U.double() @ M @ layer.V.double()
    assert layer.bias is not None
    expected = F.linear(X, W, layer.bias.double())
    torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=1e-5)
    for mine, other in zip(found, torch.autograd.grad(expected, [X, M], upstream.double()), strict=True):
        torch.testing.assert_close(mine.double(), other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(layer.merged().double(), W.detach(), atol=1e-5, rtol=1e-5)
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda own: kept.append(tuple(own.shape)) or own, lambda own: own):
        layer(x)
    assert (6, IN) not in kept


class Between(nn.Module):
    """The definition as ordinary operations, float64."""

    def __init__(self, layer: LoRAXSLinear) -> None:
        super().__init__()
        self.register_buffer("W", layer.frozen.dense().double())
        self.register_buffer("b", None if layer.bias is None else layer.bias.double())
        self.register_buffer("U", layer.U.double())
        self.register_buffer("V", layer.V.double())
        self.X, self.scale = nn.Parameter(layer.X.detach().double()), layer.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.W + self.scale * self.U @ self.X @ self.V, self.b)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_twenty_steps_follow_the_definition_in_float64(name: str) -> None:
    """PEFT has no such layer."""
    base = make(name)
    ours = copy.deepcopy(base)
    adapted = injected(ours, Method(name="lora-xs", rank=4, alpha=8.0), HEADS[name], HEADS[name], seed=3)
    theirs = copy.deepcopy(base).double().requires_grad_(False)
    for path, layer in adapted.layers.items():
        assert isinstance(layer, LoRAXSLinear)
        theirs.set_submodule(path, Between(layer))
    for head in HEADS[name]:
        theirs.get_submodule(head).requires_grad_(True)
    assert descend(ours) == pytest.approx(descend(theirs), abs=1e-5)
    for path, layer in adapted.layers.items():
        other = theirs.get_submodule(path).X
        assert layer.get_parameter("X").abs().max() > 1e-2
        torch.testing.assert_close(layer.get_parameter("X").double(), other, atol=1e-4, rtol=0)


def test_a_rank_beyond_the_weight_is_refused() -> None:
    with pytest.raises(InputError, match="at most 16 for a weight of"):
        injected(make("bert"), Method(name="lora-xs", rank=17), HEADS["bert"], HEADS["bert"])
    with pytest.raises(InputError, match="at most 16 for a weight of"):
        adapt(make("bert"), rank=17, layer="lora-xs")


def test_a_library_starts_it_too() -> None:
    base = make("bert")
    model = copy.deepcopy(base)
    adapted = adapt(model, rank=3, layer="lora-xs", trainable=HEADS["bert"])
    assert all(layer.constants()["U"].any() for layer in adapted.layers.values())
    with torch.no_grad():
        found, expected = (own.eval()(**batch()[0]).logits for own in (model, base))
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)
