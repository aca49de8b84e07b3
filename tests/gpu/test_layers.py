"""Layers and update rules on the accelerator against float64 on the CPU; without one, the CPU stands in for it."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapters.dora import DoRALinear
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.quantized import quantize
from reflora_cli.factors.linalg import balancing_metric
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import UPDATES
from reflora_cli.model.precision import pick_device, precision
from reflora_cli.objectives import token_loss
from reflora_cli.optim.build import Rates, build_optimizer
from reflora_cli.optim.partition import Partition
from reflora_cli.training.prepare import roles_in
from tests.gpu.waits import waits
from tests.language_models import make as make_language
from tests.models import ADAPTERS, HEADS, acts_on, batch, injected, make

DEVICE = pick_device()
OUT, IN, RANK, SCALE = 96, 64, 4, 1.7
KINDS = ("linear", "conv1d", "nf4", "fp4", "int8")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BOUND = {torch.float32: 2e-5, torch.bfloat16: 2e-2}
"""The largest accepted error, as a share of the norm: a few roundings of the dtype."""
BFLOAT16_LOSS = 6e-2
"""The largest accepted difference of a loss in bfloat16 from that in float32, as a share of it."""


def frozen_of(kind: str) -> FrozenWeight:
    """A random frozen weight [OUT, IN] on the CPU."""
    torch.manual_seed(0)
    if kind == "conv1d":
        return freeze(Conv1D(OUT, IN))
    linear = nn.Linear(IN, OUT)
    if kind == "linear":
        return freeze(linear)
    return quantize(linear.weight.data, linear.bias, kind, double=True, dtype=torch.float32, layout=torch.nn.Linear)


def apart(found: Tensor, right: Tensor) -> float:
    """The norm of the difference over the norm of what is right."""
    return float((found.double().cpu() - right.double()).norm() / right.double().norm().clamp_min(1e-30))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", [LoRALinear, DoRALinear])
def test_products_and_gradients_are_those_of_float64(layer: type[Any], kind: str, dtype: str) -> None:
    own: AdapterLayer = layer(frozen_of(kind), (torch.randn(RANK, IN) * 0.2, torch.randn(OUT, RANK) * 0.2), SCALE, 0.0)
    x = torch.randn(3, 5, IN).requires_grad_()
    upstream = torch.randn(3, 5, OUT)
    W = own.frozen.dense().double()
    factors = {name: p.detach().double().requires_grad_() for name, p in own.named_parameters(recurse=False)}
    V = W + SCALE * factors["B"] @ factors["A"]
    if "magnitude" in factors:
        V = V * (factors["magnitude"] / V.detach().norm(dim=1))[:, None]
    x64 = x.detach().double().requires_grad_()
    right = F.linear(x64, V, own.frozen.bias.double() if own.frozen.bias is not None else None)
    right_gradients = torch.autograd.grad(right, [x64, *factors.values()], upstream.double())

    own.to(DEVICE)
    parameters = [p for _, p in own.named_parameters(recurse=False)]
    there = x.detach().to(DEVICE).requires_grad_()
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
        y = own(there)
    assert y.dtype is DTYPES[dtype]
    gradients = torch.autograd.grad(y, [there, *parameters], upstream.to(DEVICE, y.dtype))
    bound = BOUND[DTYPES[dtype]]
    assert apart(y.detach(), right.detach()) < bound
    for found, expected in zip(gradients, right_gradients, strict=True):
        assert apart(found, expected) < bound


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_quantized_weight_is_the_same_on_every_device(kind: str) -> None:
    frozen = frozen_of(kind)
    here = frozen.dequantized().clone()
    assert apart(frozen.to(DEVICE).dequantized(), here) < 1e-6


class Training:
    """A tiny classifier under a method on a device, with its optimizer. dtype: of the base and the forward pass."""

    def __init__(
        self, method: Method, device: torch.device, optimizer: str = "adamw", dtype: torch.dtype = torch.float32
    ) -> None:
        self.device, self.dtype = device, dtype
        self.model: Any = make("bert").to(dtype)
        self.adapted = injected(self.model, method, HEADS["bert"], HEADS["bert"], seed=1)
        nn.Module.to(self.model, device)
        self.method, self.kind = method, optimizer
        self.optimizer = self.fresh()

    def fresh(self) -> Partition:
        """An optimizer that has not stepped yet."""
        adapted, rates = self.adapted, Rates(3e-3, None, 0.01, Optimizer(self.kind))
        return build_optimizer(self.method, roles_in(adapted), rates)

    def step(self) -> float:
        inputs, labels = batch(seed=0, rows=8)
        with precision(self.device, self.dtype):
            logits = self.model(**{name: tensor.to(self.device) for name, tensor in inputs.items()}).logits
        loss = F.cross_entropy(logits.float(), labels.to(self.device))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def methods() -> list[Method]:
    """Every layer with every update that it can have."""
    return [
        Method(name="lora", rank=3, alpha=6.0, layer=layer, update=update, refactor=Refactor(warmup_steps=2))
        for layer, update in itertools.product(ADAPTERS, UPDATES)
        if acts_on(update, layer)
    ]


@pytest.mark.parametrize("method", methods(), ids=lambda method: f"{method.layer} {method.update}")
def test_twenty_steps_follow_those_of_the_cpu(method: Method) -> None:
    here, there = Training(method, torch.device("cpu")), Training(method, DEVICE)
    losses = [(here.step(), there.step()) for _ in range(20)]
    assert losses[-1][0] < losses[0][0]
    for own, other in losses:
        assert other == pytest.approx(own, rel=2e-3)
    for name, parameter in here.adapted.parameters.items():
        assert apart(there.adapted.parameters[name].detach(), parameter.detach()) < 2e-2, name


IN_BFLOAT16 = methods() if DEVICE.type == "cuda" else [Method(name=name, rank=3) for name in ("lora", "dora")]


@pytest.mark.parametrize("method", IN_BFLOAT16, ids=lambda method: f"{method.layer} {method.update}")
def test_twenty_steps_in_bfloat16_stay_near_those_of_the_cpu_in_float32(method: Method) -> None:
    """On the CPU in bfloat16 every layer with every rule stays within 4%."""
    here, there = Training(method, torch.device("cpu")), Training(method, DEVICE, dtype=torch.bfloat16)
    losses = [(here.step(), there.step()) for _ in range(20)]
    assert losses[-1][1] < losses[0][1]
    for own, other in losses:
        assert other == pytest.approx(own, rel=BFLOAT16_LOSS)
    for name, parameter in there.adapted.parameters.items():
        assert parameter.dtype is torch.float32, name
        assert bool(parameter.isfinite().all()), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_without_logits_is_that_of_float64(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With three tokens in a chunk, and its gradient in hidden states."""
    monkeypatch.setattr(token_loss, "CHUNK_ELEMENTS", {"cpu": 4000, "cuda": 4000})
    model = make_language("llama")
    vocabulary, width = model.get_output_embeddings().weight.shape
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, width, generator=generator)
    targets = torch.randint(vocabulary, (11,), generator=generator)
    exact = hidden.double().requires_grad_()
    right = F.cross_entropy(exact @ model.get_output_embeddings().weight.double().T, targets, reduction="sum")
    (gradient,) = torch.autograd.grad(right, exact)
    nn.Module.to(model, DEVICE)
    there = hidden.to(DEVICE).requires_grad_()
    with precision(DEVICE, DTYPES[dtype]):
        loss = token_loss.token_loss(model, there, targets.to(DEVICE))
    (found,) = torch.autograd.grad(loss, there)
    bound = BOUND[DTYPES[dtype]]
    assert apart(loss.detach(), right.detach()) < bound
    assert apart(found, gradient) < bound


OPTIMIZERS = [own for own in Optimizer if DEVICE.type == "cuda" or "paged" not in own]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", [Method(name="lora", rank=3), Method(name="dora", rank=3)], ids=lambda m: m.name)
def test_a_resumed_run_on_the_device_equals_one_that_was_not_interrupted(method: Method, optimizer: str) -> None:
    whole, part = Training(method, DEVICE, optimizer), Training(method, DEVICE, optimizer)
    for _ in range(6):
        whole.step()
    for _ in range(3):
        part.step()
    saved = copy.deepcopy(part.optimizer.tensors(part.adapted.parameters))
    part.optimizer = part.fresh()
    part.optimizer.load_tensors(part.adapted.parameters, saved)
    for _ in range(3):
        part.step()
    for name, parameter in whole.adapted.parameters.items():
        assert torch.equal(parameter, part.adapted.parameters[name]), name


@pytest.mark.parametrize("rank", [8, 32, 64])
def test_the_metric_on_the_device_is_that_of_the_cpu(rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    A, B = (torch.randn(5, rank, 256, generator=generator, dtype=torch.float64) for _ in range(2))
    grams = A @ A.mT, B @ B.mT
    here = balancing_metric(*grams, damping=1e-3)
    there = balancing_metric(*(gram.to(DEVICE) for gram in grams), damping=1e-3)
    assert bool(there.valid.all())
    assert apart(there.S, here.S) < 1e-7
    assert apart(there.S_inverse, here.S_inverse) < 1e-7


@pytest.mark.parametrize("update", UPDATES)
def test_a_rule_never_makes_the_host_wait(update: str) -> None:
    layer = next(own for own in ADAPTERS if acts_on(update, own))
    training = Training(
        Method(name="lora", rank=3, layer=layer, update=update, refactor=Refactor(warmup_steps=1)), DEVICE
    )
    for _ in range(3):
        training.step()
    for parameter in training.adapted.parameters.values():
        parameter.grad = torch.full_like(parameter, 1e-3)
    rule = training.optimizer.rule
    with waits("error"):
        rule.before_step()
        rule.after_step(training.optimizer.state)
