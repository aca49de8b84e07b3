"""The fused products: the plain formula in value and in every gradient, with less kept for the backward pass."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.quantized import quantize
from reflora_cli.methods.layers import LayerKind

OUT, IN, RANK, SCALE = 24, 64, 4, 1.7
LAYERS = pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
BASES = pytest.mark.parametrize("base", ["linear", "linear without bias", "conv1d", "nf4", "int8"])


def frozen_of(base: str) -> FrozenWeight:
    torch.manual_seed(0)
    if base == "conv1d":
        return freeze(Conv1D(OUT, IN))
    linear = nn.Linear(IN, OUT, bias=base != "linear without bias")
    if base in ("nf4", "int8"):
        return quantize(linear.weight.data, linear.bias, base, double=True, dtype=torch.float32, layout=torch.nn.Linear)
    return freeze(linear)


def layer_of(kind: type[Any], base: str, dropout: float = 0.0) -> AdapterLayer:
    frozen = frozen_of(base)
    pair = (torch.randn(RANK, IN) * 0.2, torch.randn(OUT, RANK) * 0.2)
    layer: AdapterLayer = kind(frozen, pair, SCALE, dropout)
    if isinstance(layer, DoRALinear):
        layer.magnitude.data *= torch.linspace(0.5, 1.5, OUT)
    return layer


def plain(layer: AdapterLayer, x: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """The definition, in float64, differentiable in x and the factors; DoRA's norms are constants."""
    W = layer.frozen.dense().double()
    bias = None if layer.bias is None else layer.bias.double()
    V = W + SCALE * factors["B"] @ factors["A"]
    if "magnitude" in factors:
        V = V * (factors["magnitude"] / V.detach().norm(dim=1))[:, None]
    return F.linear(x, V, bias)


def doubled(layer: AdapterLayer) -> dict[str, Tensor]:
    return {name: p.detach().double().requires_grad_() for name, p in layer.named_parameters(recurse=False)}


@LAYERS
@BASES
@pytest.mark.parametrize("shape", [(5, IN), (2, 3, IN), (2, 2, 3, IN)])
def test_value_and_gradients_are_those_of_the_definition(kind: type[Any], base: str, shape: tuple[int, ...]) -> None:
    layer = layer_of(kind, base)
    x = torch.randn(shape, requires_grad=True)
    upstream = torch.randn(*shape[:-1], OUT)
    own = dict(layer.named_parameters(recurse=False))
    y = layer(x)
    found = torch.autograd.grad(y, [x, *own.values()], upstream)
    factors = doubled(layer)
    x64 = x.detach().double().requires_grad_()
    expected = plain(layer, x64, factors)
    right = torch.autograd.grad(expected, [x64, *factors.values()], upstream.double())
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    for name, mine, other in zip(["x", *own], found, right, strict=True):
        torch.testing.assert_close(mine.double(), other, atol=2e-5, rtol=1e-4, msg=name)


@LAYERS
def test_inputs_that_need_no_gradient_or_are_not_contiguous(kind: type[Any]) -> None:
    layer = layer_of(kind, "linear")
    x = torch.randn(IN, 6).T
    y = layer(x)
    torch.testing.assert_close(y, layer(x.contiguous()))
    y.sum().backward()
    assert layer.A.grad is not None
    with torch.no_grad():
        assert not layer(x).requires_grad


@LAYERS
@pytest.mark.parametrize("base", ["linear", "nf4"])
def test_half_precision_runs_in_its_own_dtype(kind: type[Any], base: str) -> None:
    layer = layer_of(kind, base)
    x = torch.randn(6, IN, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x).detach(), atol=0.1, rtol=0.1)
    y.float().sum().backward()
    assert layer.A.grad is not None
    assert layer.A.grad.dtype is torch.float32


@LAYERS
def test_a_layer_used_twice_and_under_recomputation(kind: type[Any]) -> None:
    """Non-reentrant checkpointing gives the same gradients, and so does a layer that stands in a graph twice."""
    layer = layer_of(kind, "linear")
    again = copy.deepcopy(layer)
    square = nn.Linear(OUT, IN)
    x = torch.randn(4, IN, requires_grad=True)
    layer(square(layer(x))).sum().backward()
    other = checkpoint(lambda value: again(square(again(value))), x, use_reentrant=False)
    assert isinstance(other, Tensor)
    other.sum().backward()
    for mine, theirs in zip(layer.parameters(recurse=False), again.parameters(recurse=False), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)


def dropped(layer: AdapterLayer, x: Tensor, mask: Tensor, factors: dict[str, Tensor]) -> Tensor:
    """The definition with dropout, in float64: y = W x + b + (c - 1) W d + c s B A d with d = x * mask, c = m / n."""
    W, d = layer.frozen.dense().double(), x * mask
    bias = 0.0 if layer.bias is None else layer.bias.double()
    V = W + SCALE * factors["B"] @ factors["A"]
    gain = factors["magnitude"] / V.detach().norm(dim=1) if "magnitude" in factors else torch.ones(OUT).double()
    return x @ W.T + bias + (gain - 1) * (d @ W.T) + gain * SCALE * (d @ factors["A"].T @ factors["B"].T)


@LAYERS
@BASES
def test_dropout_acts_on_the_update_s_input(kind: type[Any], base: str) -> None:
    """Value and every gradient, with the mask that the layer drew."""
    layer = layer_of(kind, base, dropout=0.4).train()
    x = torch.randn(3, 5, IN, requires_grad=True)
    upstream = torch.randn(3, 5, OUT)
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    mask = F.dropout(torch.ones(15, IN), 0.4).view(3, 5, IN).double()
    own = dict(layer.named_parameters(recurse=False))
    found = torch.autograd.grad(y, [x, *own.values()], upstream)
    factors, x64 = doubled(layer), x.detach().double().requires_grad_()
    expected = dropped(layer, x64, mask, factors)
    right = torch.autograd.grad(expected, [x64, *factors.values()], upstream.double())
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    for name, mine, other in zip(["x", *own], found, right, strict=True):
        torch.testing.assert_close(mine.double(), other, atol=2e-5, rtol=1e-4, msg=name)
    layer.eval()
    torch.testing.assert_close(layer(x).double(), plain(layer, x64, factors), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bias", [0.0, 300.0])
def test_a_magnitude_s_gradient_in_half_precision_does_not_depend_on_the_bias(bias: float) -> None:
    """An output of which the bias is nearly all has no digits left for what the gradient needs."""
    layer = layer_of(DoRALinear, "linear")
    assert layer.bias is not None
    assert isinstance(layer, DoRALinear)
    layer.bias.data.fill_(bias)
    x, upstream = torch.randn(200, IN), torch.randn(200, OUT)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x).backward(upstream.bfloat16())
    factors = doubled(layer)
    (right,) = torch.autograd.grad(plain(layer, x.double(), factors), [factors["magnitude"]], upstream.double())
    assert layer.magnitude.grad is not None
    assert (layer.magnitude.grad.double() - right).norm() < 0.01 * right.norm()


@LAYERS
@pytest.mark.parametrize("base", ["linear", "linear without bias", "nf4"])
def test_an_output_may_be_changed_in_place(kind: type[Any], base: str) -> None:
    """As DeBERTa, Longformer and OLMo do: the same gradients as of a copy that is changed."""
    layer = layer_of(kind, base)
    own = list(layer.parameters(recurse=False))
    x = torch.randn(2, 3, IN)
    found = [
        torch.autograd.grad(change(layer(x)).square().sum(), own)
        for change in (lambda y: y / 3 + 1, lambda y: y.div_(3).add_(1), lambda y: y.view(6, OUT).div_(3).add_(1))
    ]
    for others in found[1:]:
        for mine, other in zip(found[0], others, strict=True):
            torch.testing.assert_close(mine, other, atol=1e-4, rtol=1e-4)


def test_norms_that_evaluation_computed_serve_training() -> None:
    layer = layer_of(DoRALinear, "linear")
    with torch.inference_mode():
        layer.eval()(torch.randn(3, IN))
    layer.train()(torch.randn(3, IN)).sum().backward()
    assert layer.A.grad is not None


@pytest.mark.parametrize("base", ["linear", "conv1d"])
def test_norms_are_computed_in_float32(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a base in half precision too, some rows at a time."""
    from reflora_cli.adapters import frozen

    monkeypatch.setattr(frozen, "CAST_ELEMENTS", 5 * IN)
    weight = frozen_of(base).bfloat16()
    layer = DoRALinear(weight, (torch.randn(RANK, IN), torch.randn(OUT, RANK)), SCALE, 0.0)
    torch.testing.assert_close(layer.row_norms().double(), layer.dense_sum().double().norm(dim=1), rtol=1e-6, atol=0)


def kept_elements(layer: AdapterLayer, x: Tensor) -> int:
    """Elements that the graph keeps beside the layer's own tensors, each storage once."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*layer.parameters(), *layer.buffers())}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x)
    return sum(size for place, size in found.items() if place not in own)


@BASES
def test_little_is_kept_for_the_backward_pass(base: str) -> None:
    """x and A x; DoRA keeps its output and a vector of norms as well."""
    x = torch.randn(32, IN, requires_grad=True)
    assert kept_elements(layer_of(LoRALinear, base), x) <= 32 * (IN + RANK)
    dora = layer_of(DoRALinear, base)
    dora(x)
    assert kept_elements(dora, x) <= 32 * (IN + RANK + OUT) + OUT


def test_norms_are_computed_once_for_each_state_of_the_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of(DoRALinear, "linear")
    assert isinstance(layer, DoRALinear)
    count = 0
    compute = layer.row_norms

    def counted() -> Tensor:
        nonlocal count
        count += 1
        return compute()

    monkeypatch.setattr(layer, "row_norms", counted)
    x = torch.randn(3, IN)
    optimizer = torch.optim.AdamW(layer.parameters(recurse=False), lr=0.1)
    for step in range(1, 4):
        for _ in range(4):
            layer(x).sum().backward()
        assert count == step
        optimizer.step()
        optimizer.zero_grad()
    layer.load_state_dict({**layer.state_dict(), "B": torch.zeros(OUT, RANK)})
    expected = layer.frozen.dense().norm(dim=1)
    torch.testing.assert_close(layer.current_norms(), expected, atol=1e-5, rtol=1e-5)


def test_an_optimizer_that_writes_past_autograd_is_seen() -> None:
    """bitsandbytes does; its steps must reach the norms."""
    from reflora_cli.optim.pair_adamw_8bit import PairAdamW8bit
    from reflora_cli.optim.rule import PlainRule

    layer = layer_of(DoRALinear, "linear")
    assert isinstance(layer, DoRALinear)
    groups = [{"params": list(layer.parameters(recurse=False)), "lr": 0.1, "weight_decay": 0.0}]
    optimizer = PairAdamW8bit(groups, PlainRule(), is_paged=False)
    layer(torch.randn(3, IN)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(layer.current_norms(), layer.row_norms())


def test_a_row_without_magnitude_stays_finite() -> None:
    layer = layer_of(DoRALinear, "linear")
    assert isinstance(layer, DoRALinear)
    layer.magnitude.data[2] = 0
    layer(torch.randn(3, IN)).sum().backward()
    assert layer.magnitude.grad is not None
    assert layer.magnitude.grad.isfinite().all()


@LAYERS
@pytest.mark.parametrize("base", ["linear", "conv1d", "nf4"])
@pytest.mark.parametrize("half", [False, True])
def test_a_compiled_layer_computes_the_same(kind: type[Any], base: str, half: bool) -> None:
    """Traced, the plain formula takes the place of the fused products; with an optimizer step between two calls."""
    layer = layer_of(kind, base)
    own = list(layer.parameters(recurse=False))
    compiled = torch.compile(layer, backend="aot_eager")
    tolerance = 0.1 if half else 1e-5
    for _ in range(2):
        found = []
        for function in (layer, compiled):
            x = torch.linspace(-1, 1, 5 * IN).view(5, IN).requires_grad_()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                y = function(x)
            found.append([y.detach(), *torch.autograd.grad(y.float().square().sum(), [x, *own])])
        for mine, other in zip(*found, strict=True):
            torch.testing.assert_close(mine, other, atol=tolerance * float(mine.abs().max()), rtol=0)
        with torch.no_grad():
            for parameter in own:
                parameter.mul_(1.1)


@pytest.mark.parametrize("kind", ["adalora", "lora-xs", "stella"])
def test_a_compiled_layer_without_a_pair_computes_the_same(kind: LayerKind) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(IN, OUT))
    own = list(adapt(model, rank=RANK, layer=kind).parameters.values())
    with torch.no_grad():
        for parameter in own:
            parameter.add_(torch.randn(parameter.shape))
    found = []
    for function in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        x = torch.linspace(-1, 1, 5 * IN).view(5, IN).requires_grad_()
        y = function(x)
        found.append([y.detach(), *torch.autograd.grad(y.square().sum(), [x, *own])])
    for mine, other in zip(*found, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5 * float(mine.abs().max()), rtol=0)
