"""VeRA's layer against its definition in float64 and against PEFT's, and what its layers share."""

from __future__ import annotations

import copy
import math
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from reflora_cli import adapt
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.quantized import quantize
from reflora_cli.adapters.vera import Projections, VeRALinear
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, MODELS, batch, descend, injected, make

OUT, IN, RANK = 24, 64, 7
BASES = pytest.mark.parametrize("base", ["linear", "linear without bias", "conv1d", "nf4", "int8"])


def frozen_of(base: str) -> FrozenWeight:
    torch.manual_seed(0)
    if base == "conv1d":
        return freeze(Conv1D(OUT, IN))
    linear = nn.Linear(IN, OUT, bias=base != "linear without bias")
    if base in ("nf4", "int8"):
        return quantize(linear.weight.data, linear.bias, base, double=True, dtype=torch.float32, layout=nn.Linear)
    return freeze(linear)


def layer_on(base: str, dropout: float = 0.0) -> VeRALinear:
    """A layer with vectors that are not at their start, on projections wider than its weight."""
    frozen = frozen_of(base)
    shared = Projections(torch.randn(RANK, IN + 5), torch.randn(OUT + 3, RANK), torch.device("cpu"))
    return VeRALinear(frozen, shared, (torch.randn(RANK), torch.randn(OUT)), dropout)


def defined(layer: VeRALinear, x: Tensor, d: Tensor, b: Tensor) -> Tensor:
    """The definition: a dense weight in float64."""
    A, B = layer.projections.A[:, :IN].double(), layer.projections.B[:OUT].double()
    W = layer.frozen.dense().double() + torch.diag(b) @ B @ torch.diag(d) @ A
    return F.linear(x, W, None if layer.bias is None else layer.bias.double())


@BASES
@pytest.mark.parametrize("shape", [(5, IN), (2, 3, IN)])
def test_value_and_gradients_are_those_of_the_definition(base: str, shape: tuple[int, ...]) -> None:
    layer = layer_on(base)
    x = torch.randn(shape, requires_grad=True)
    upstream = torch.randn(*shape[:-1], OUT)
    y = layer(x)
    found = torch.autograd.grad(y, [x, layer.d, layer.b], upstream)
    doubles = [own.detach().double().requires_grad_() for own in (x, layer.d, layer.b)]
    expected = defined(layer, *doubles)
    right = torch.autograd.grad(expected, doubles, upstream.double())
    torch.testing.assert_close(y.double(), expected, atol=2e-5, rtol=1e-5)
    for mine, other in zip(found, right, strict=True):
        torch.testing.assert_close(mine.double(), other, atol=5e-5, rtol=1e-4)
    plain = layer.plain(torch.float32)
    torch.testing.assert_close(plain(x).double(), expected, atol=2e-5, rtol=1e-5)


@BASES
def test_dropout_acts_on_the_update_s_input_alone(base: str) -> None:
    layer = layer_on(base, dropout=0.4).train()
    x = torch.randn(5, IN, requires_grad=True)
    torch.manual_seed(3)
    y = layer(x)
    torch.manual_seed(3)
    p = nn.Dropout(0.4)(x)
    own = F.linear(F.linear(p, layer.A) * layer.d, layer.B) * layer.b
    expected = layer.frozen(x) + own
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=1e-5)
    upstream = torch.randn(5, OUT)
    found = torch.autograd.grad(y, [x, layer.d, layer.b], upstream)
    right = torch.autograd.grad(expected, [x, layer.d, layer.b], upstream)
    for mine, other in zip(found, right, strict=True):
        torch.testing.assert_close(mine, other, atol=5e-5, rtol=1e-4)
    assert not torch.equal(layer.eval()(x), y)


def kept_for_backward(layer: VeRALinear, x: Tensor) -> list[Tensor]:
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda own: kept.append(own) or own, lambda own: own):
        layer(x)
    return kept


@pytest.mark.parametrize("base", ["linear", "nf4"])
def test_only_the_small_product_is_kept_and_nothing_is_computed_for_the_projections(base: str) -> None:
    """The input [n, in] and the output [n, out] are not kept; A x [n, R] and the vectors are."""
    layer = layer_on(base)
    x = torch.randn(50, IN, requires_grad=True)
    assert sorted(tuple(own.shape) for own in kept_for_backward(layer, x)) == [(RANK,), (OUT,), (50, RANK)]
    layer(x).sum().backward()
    assert not layer.projections.A.requires_grad
    assert layer.projections.A.grad is layer.projections.B.grad is layer.frozen.weight.grad is None


def storages(layers: list[Any]) -> set[tuple[int, int]]:
    return {(layer.A.untyped_storage().data_ptr(), layer.B.untyped_storage().data_ptr()) for layer in layers}


def test_all_layers_hold_one_pair_of_projections_wherever_they_go() -> None:
    """In memory of their own size, after a copy and after a move to another dtype and device too."""
    model = make("bert")
    adapted = adapt(model, rank=RANK, layer="vera")
    layers = list(adapted.layers.values())
    assert len(layers) > 3
    assert len({(own.frozen.out_features, own.frozen.in_features) for own in layers}) > 1
    widest = max(own.frozen.in_features for own in layers), max(own.frozen.out_features for own in layers)
    assert len(storages(layers)) == 1
    shared = layers[0].projections
    assert (shared.A.shape, shared.B.shape) == ((RANK, widest[0]), (widest[1], RANK))
    assert all(own.A.shape == (RANK, own.frozen.in_features) for own in layers)
    copied = [module for module in copy.deepcopy(model).modules() if isinstance(module, VeRALinear)]
    assert len(storages(copied)) == 1
    assert storages(copied) != storages(layers)
    nn.Module.to(model, torch.float64)
    assert len(storages(layers)) == 1
    assert layers[0].A.dtype is torch.float64
    nn.Module.to(model, "meta")
    assert len({id(own.projections.A) for own in layers}) == 1
    assert layers[0].A.device.type == "meta"
    assert not any("projections" in key for key in model.state_dict())


def test_the_projections_depend_on_the_seed_and_the_largest_shape_alone() -> None:
    first, other, again = (adapt(make("bert"), rank=3, layer="vera", seed=seed).layers for seed in (0, 1, 0))
    name = next(iter(first))
    assert torch.equal(first[name].A, other[name].A)
    assert torch.equal(first[name].B, again[name].B)
    drawn = [
        injected(make("bert"), Method(name="vera", rank=3, layer={"kind": "vera", "projection_seed": seed}), [], [])
        for seed in (0, 1)
    ]
    assert torch.equal(drawn[0].layers[name].A, first[name].A)
    assert not torch.equal(drawn[1].layers[name].A, first[name].A)


def test_entries_are_uniform_up_to_he_s_bound() -> None:
    layer = next(iter(adapt(nn.Sequential(nn.Linear(400, 300)), rank=200, layer="vera").layers.values()))
    for matrix, columns in ((layer.projections.A, 400), (layer.projections.B, 200)):
        bound = math.sqrt(6 / columns)
        assert 0.99 * bound < float(matrix.abs().max()) <= bound * (1 + 1e-6)
        assert float(matrix.std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert torch.equal(layer.d.detach(), torch.full((200,), 0.1))
    assert not layer.b.any()


@pytest.mark.parametrize(("key", "value"), [("start", "gaussian"), ("scaling", "rslora")])
def test_settings_of_pairs_are_refused(key: str, value: str) -> None:
    arguments: dict[str, Any] = {key: value}
    with pytest.raises(InputError, match="layer vera has no pairs"):
        adapt(make("bert"), layer="vera", **arguments)


def peft_twin(base: nn.Module, name: str, method: Method, adapted: Adapted) -> nn.Module:
    """The same model through PEFT, with nothing of ours copied in: a start of PEFT's own."""
    config = peft.VeraConfig(
        task_type="SEQ_CLS",
        r=method.rank,
        target_modules=list(adapted.layers),
        modules_to_save=list(HEADS[name]),
        projection_prng_key=method.layer.projection_seed,
        d_initial=method.layer.d_initial,
        vera_dropout=method.dropout,
        fan_in_fan_out=name == "gpt2",
    )
    return peft.get_peft_model(base, config)


@pytest.mark.parametrize("name", list(MODELS))
def test_twenty_steps_follow_peft(name: str) -> None:
    """From the same key: the projections to the bit; losses and every trained parameter to 1e-5."""
    base = make(name)
    method = Method(name="vera", rank=12, layer={"kind": "vera", "d_initial": 0.3, "projection_seed": 5})
    ours = copy.deepcopy(base)
    adapted = injected(ours, method, HEADS[name], HEADS[name], seed=3)
    theirs = peft_twin(base, name, method, adapted)
    start = peft.get_peft_model_state_dict(theirs)
    shared = next(iter(adapted.layers.values())).projections
    assert torch.equal(shared.A, start["base_model.vera_A"])
    assert torch.equal(shared.B, start["base_model.vera_B"])

    our_losses, their_losses = descend(ours), descend(theirs)

    assert our_losses == pytest.approx(their_losses, abs=1e-5)
    reference = peft.get_peft_model_state_dict(theirs)
    for path, module in adapted.layers.items():
        assert module.b.abs().max() > 1e-2
        assert (module.d - 0.3).abs().max() > 1e-2
        for mine, key in ((module.d, "vera_lambda_d"), (module.b, "vera_lambda_b")):
            other = reference[f"base_model.model.{path}.{key}"]
            torch.testing.assert_close(mine.detach(), other, atol=1e-5, rtol=0)


def test_half_precision_under_autocast_is_near_and_trains_float32_vectors() -> None:
    base = make("bert")
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model = copy.deepcopy(base).to(dtype)
        adapted = injected(model, Method(name="vera", rank=8), [], [])
        generator = torch.Generator().manual_seed(1)
        for layer in adapted.layers.values():
            layer.b.data.normal_(std=0.3, generator=generator)
        inputs, labels = batch()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is torch.bfloat16):
            logits = model(**inputs).logits
        F.cross_entropy(logits.float(), labels).backward()
        found.append(torch.cat([parameter.grad.flatten() for parameter in adapted.parameters.values()]))
    assert found[1].dtype is torch.float32
    assert found[0].norm() > 0
    assert (found[0] - found[1]).norm() < 0.1 * found[0].norm()
