"""StelLA's layer against its definition in float64, where it starts, and what its file holds."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from reflora_cli import RefLoRA, adapt
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.low_rank import FILE_A, FILE_B
from reflora_cli.adapters.quantized import quantize
from reflora_cli.adapters.stella import StellaLinear, multiple_of_identity
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, batch, injected, make

OUT, IN, RANK, SCALE = 24, 64, 4, 1.7
BASES = pytest.mark.parametrize("base", ["linear", "linear without bias", "conv1d", "nf4", "int8"])
DIAGONAL = pytest.mark.parametrize("diagonal", [True, False])


def frozen_of(base: str) -> FrozenWeight:
    torch.manual_seed(0)
    if base == "conv1d":
        return freeze(Conv1D(OUT, IN))
    linear = nn.Linear(IN, OUT, bias=base != "linear without bias")
    if base in ("nf4", "int8"):
        return quantize(linear.weight.data, linear.bias, base, double=True, dtype=torch.float32, layout=nn.Linear)
    return freeze(linear)


def layer_on(base: str, diagonal: bool, dropout: float = 0.0) -> StellaLinear:
    """A layer with an S of no special form."""
    frozen = frozen_of(base)
    pair = torch.zeros(RANK, IN), torch.zeros(OUT, RANK)
    layer = StellaLinear(frozen, pair, SCALE, dropout)
    layer.start_itself(torch.Generator().manual_seed(1))
    layer.put_between(torch.randn(RANK) if diagonal else torch.randn(RANK, RANK))
    return layer


def defined(layer: StellaLinear, x: Tensor, factors: list[Tensor]) -> Tensor:
    """The definition: a dense weight in float64."""
    A, B, S = factors
    W = layer.frozen.dense().double() + SCALE * B @ (torch.diag(S) if S.ndim == 1 else S) @ A
    return F.linear(x, W, None if layer.bias is None else layer.bias.double())


@BASES
@DIAGONAL
def test_value_and_gradients_are_those_of_the_definition(base: str, diagonal: bool) -> None:
    layer = layer_on(base, diagonal)
    x = torch.randn(2, 3, IN, requires_grad=True)
    upstream = torch.randn(2, 3, OUT)
    own = [x, layer.A, layer.B, layer.S]
    y = layer(x)
    found = torch.autograd.grad(y, own, upstream)
    doubles = [each.detach().double().requires_grad_() for each in own]
    expected = defined(layer, doubles[0], doubles[1:])
    right = torch.autograd.grad(expected, doubles, upstream.double())
    torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=1e-5)
    for mine, other in zip(found, right, strict=True):
        torch.testing.assert_close(mine.double(), other, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(layer.plain(torch.float32)(x).double(), expected, atol=2e-5, rtol=1e-5)


def test_dropout_acts_on_the_update_s_input_alone() -> None:
    layer = layer_on("linear", diagonal=False, dropout=0.4).train()
    x = torch.randn(5, IN)
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    expected = layer.frozen(x) + SCALE * nn.Dropout(0.4)(x) @ layer.A.T @ layer.S.T @ layer.B.T
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@DIAGONAL
def test_what_is_absorbed_is_float32_under_autocast(diagonal: bool) -> None:
    layer = layer_on("linear", diagonal)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer.tensors()[FILE_B], layer.left())
        half = layer(torch.ones(1, IN))
    assert half.dtype is torch.bfloat16
    S = torch.diag(layer.S) if diagonal else layer.S
    torch.testing.assert_close(layer.left().double(), layer.B.double() @ S.double(), atol=1e-6, rtol=1e-6)
    assert set(layer.tensors()) == {FILE_A, FILE_B}


@pytest.mark.parametrize("settings", [{}, {"diagonal": True}, {"s_initial": 0.5}, {"diagonal": True, "s_initial": 0.0}])
def test_frames_begin_random_and_orthonormal_and_s_as_a_multiple_of_the_identity(settings: dict[str, Any]) -> None:
    method = Method(name="stella", rank=3, layer={"kind": "stella", **settings})
    one, other = (injected(make("bert"), method, HEADS["bert"], HEADS["bert"], seed=seed) for seed in (1, 2))
    frames = set[float]()
    for name, layer in one.layers.items():
        assert isinstance(layer, StellaLinear)
        for gram in (layer.A @ layer.A.T, layer.B.T @ layer.B):
            torch.testing.assert_close(gram.detach(), torch.eye(3), atol=1e-6, rtol=0)
        S = settings.get("s_initial", 1.0) * torch.eye(3)
        assert torch.equal(layer.S, S.diagonal() if settings.get("diagonal") else S)
        assert not torch.equal(layer.A, other.layers[name].get_parameter("A"))
        frames.add(layer.A.detach()[0, 0].item())
    assert len(frames) == len(one.layers)
    assert torch.equal(multiple_of_identity(2, 3.0, is_diagonal=False), torch.tensor([[3.0, 0.0], [0.0, 3.0]]))


def test_a_model_of_anybody_s_is_trained_on_the_manifold() -> None:
    model = make("bert")
    adapted = adapt(model, rank=3, layer="stella", scaling="rslora", trainable=HEADS["bert"])
    optimizer = RefLoRA(model, lr=5e-3, update="stiefel", weight_decay=0.1)
    inputs, labels = batch(rows=8)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(**inputs).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        for layer in adapted.layers.values():
            A, B = layer.get_parameter("A"), layer.get_parameter("B")
            for gram in (A @ A.T, B.T @ B):
                torch.testing.assert_close(gram.detach(), torch.eye(3), atol=1e-6, rtol=0)
    assert losses[-1] < 0.5 * losses[0]
    saved = copy.deepcopy(optimizer.state_dict())
    RefLoRA(model, lr=5e-3, update="stiefel").load_state_dict(saved)


def test_what_does_not_go_together_is_refused() -> None:
    framed, paired = make("bert"), make("bert")
    adapt(framed, rank=3, layer="stella")
    adapt(paired, rank=3)
    with pytest.raises(InputError, match=r"update reflora is for pairs A, B"):
        RefLoRA(framed)
    with pytest.raises(InputError, match=r"update stiefel is for orthonormal frames"):
        RefLoRA(paired, update="stiefel")
    for settings in ({"start": "gaussian"}, {"rank": 33}):
        with pytest.raises(InputError, match=r"no pairs|rank is larger"):
            adapt(make("bert"), layer="stella", **settings)  # type: ignore[arg-type]
