"""LoRA-FA: A is held, inputs are not kept for its gradient, and projected gradients are those of the paper."""

from __future__ import annotations

import copy

import peft
import pytest
import torch
from peft.optimizers import lorafa
from pydantic import ValidationError
from torch import Tensor, nn

from reflora_cli import RefLoRA, adapt
from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.adapters.low_rank import hold_first_factors
from reflora_cli.factors.pair import FactorPair
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.optim.build import Rates, build_optimizer
from reflora_cli.optim.lora_fa import ProjectedRule
from reflora_cli.training.prepare import roles_in
from tests.models import HEADS, batch, injected, make, stepped

EPS = 1e-12
"""PEFT's optimizer adds epsilon before the bias correction, ours after it: with one so small both are the same."""


def held_pair(scale: float) -> FactorPair:
    g = torch.Generator().manual_seed(0)
    A = nn.Parameter(torch.randn(3, 7, generator=g), requires_grad=False)
    return FactorPair("one", A, nn.Parameter(torch.randn(5, 3, generator=g)), scale)


@pytest.mark.parametrize("scale", [0.25, 4.0])
def test_the_weight_s_step_is_its_gradient_projected_on_the_rows_of_a(scale: float) -> None:
    pair = held_pair(scale)
    G = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    A = pair.A.double()
    pair.B.grad = (scale * G @ A.T).float()
    ProjectedRule([pair]).before_step()
    projector = A.T @ torch.linalg.solve(A @ A.T, A)
    torch.testing.assert_close(scale * pair.B.grad.double() @ A, G @ projector, atol=1e-6, rtol=1e-6)
    assert pair.A.grad is None


def test_dependent_rows_of_a_give_the_shortest_fit() -> None:
    pair = held_pair(1.0)
    pair.A.data[2] = pair.A.data[0]
    G = torch.randn(5, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    pair.B.grad = (G @ pair.A.double().T).float()
    ProjectedRule([pair]).before_step()
    torch.testing.assert_close(pair.B.grad.double(), G @ torch.linalg.pinv(pair.A.double()), atol=1e-5, rtol=1e-5)


def kept_for_backward(layer: LoRALinear, x: Tensor) -> list[tuple[int, ...]]:
    kept: list[tuple[int, ...]] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda own: kept.append(tuple(own.shape)) or own, lambda own: own):
        layer(x)
    return kept


def test_no_input_is_kept_where_a_is_held() -> None:
    """Gradients of B and of the input are those that they are with a trained A, to the bit."""
    torch.manual_seed(0)
    layer = LoRALinear(freeze(nn.Linear(64, 24)), (torch.randn(4, 64), torch.randn(24, 4)), 0.5, 0.0)
    x, upstream = torch.randn(50, 64, requires_grad=True), torch.randn(50, 24)
    expected = torch.autograd.grad(layer(x), [layer.B, x], upstream)
    with_a = kept_for_backward(layer, x)
    layer.hold_a()
    assert sorted(with_a) == [(4, 64), (24, 4), (50, 4), (50, 64)]
    assert sorted(kept_for_backward(layer, x)) == [(4, 64), (24, 4), (50, 4)]
    for mine, other in zip(torch.autograd.grad(layer(x), [layer.B, x], upstream), expected, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("gradients", ["own", "projected"])
def test_twenty_steps_follow_peft(name: str, gradients: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PEFT's optimizer without its products in bfloat16; with them it is off by their rounding."""
    monkeypatch.setattr(lorafa, "is_bf16_available", lambda: False)
    base = make(name)
    update = {"kind": "lora-fa", "gradients": gradients}
    method = Method(name="lora", rank=4, alpha=8.0, update=update)
    ours = copy.deepcopy(base)
    adapted = injected(ours, method, HEADS[name], HEADS[name], seed=3)
    begun = {path: layer.get_parameter("A").clone() for path, layer in adapted.layers.items()}
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8.0, target_modules=list(adapted.layers),
                             modules_to_save=list(HEADS[name]), fan_in_fan_out=name == "gpt2")  # fmt: skip
    theirs = peft.get_peft_model(base, config)
    modules = dict(theirs.base_model.model.named_modules())
    for path, A in begun.items():
        modules[path].lora_A["default"].weight.data.copy_(A).requires_grad_(False)
        modules[path].lora_A["default"].weight.requires_grad_(False)
    if gradients == "projected":
        their_optimizer = lorafa.create_lorafa_optimizer(theirs, r=4, lora_alpha=8, lr=1e-2)
        for group in their_optimizer.param_groups:
            group["eps"] = EPS
    else:
        trained = [own for own in theirs.parameters() if own.requires_grad]
        their_optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0, eps=EPS)
    our_optimizer = build_optimizer(method, roles_in(adapted), Rates(1e-2, None, 0.0))
    for group in our_optimizer.param_groups:
        group["eps"] = EPS
    assert stepped(ours, our_optimizer) == pytest.approx(stepped(theirs, their_optimizer), abs=1e-5)
    for path, layer in adapted.layers.items():
        assert torch.equal(layer.get_parameter("A"), begun[path])
        own, other = layer.get_parameter("B"), modules[path].lora_B["default"].weight
        assert own.detach().abs().max() > 1e-2
        torch.testing.assert_close(own, other, atol=2e-5, rtol=0)


def test_under_descent_alpha_does_not_matter() -> None:
    """The step of the weight is a projection of its gradient whatever s is: losses agree, those of B's own part."""
    losses = {}
    for gradients in ("own", "projected"):
        for alpha in (4.0, 16.0):
            model = make("bert")
            method = Method(name="lora-fa", rank=4, alpha=alpha, update={"kind": "lora-fa", "gradients": gradients})
            adapted = injected(model, method, HEADS["bert"], HEADS["bert"])
            optimizer = build_optimizer(method, roles_in(adapted), Rates(1e-2, None, 0.0, Optimizer.SGD))
            losses[gradients, alpha] = stepped(model, optimizer, 8)
    assert losses["projected", 4.0] == pytest.approx(losses["projected", 16.0], abs=1e-5)
    assert losses["own", 4.0] != pytest.approx(losses["own", 16.0], abs=1e-3)


def test_a_ratio_of_rates_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"lr_ratio=4 is for A and B, and method.update=lora-fa trains B alone"):
        Method(name="lora-fa", lr_ratio=4.0)
    with pytest.raises(ValidationError, match="update=lora-fa trains B alone"):
        Method(name="lora+", update="lora-fa")


def test_an_optimizer_does_not_freeze_what_it_was_given() -> None:
    model = make("bert")
    adapted = adapt(model)
    with pytest.raises(InputError, match=r"trains B alone[\s\S]*A.requires_grad_\(False\)"):
        RefLoRA(model, update="lora-fa")
    hold_first_factors(adapted)
    assert not any("A" in name.split(".") for name in adapted.parameters)
    inputs, _ = batch()
    model(**inputs).logits.sum().backward()
    assert all(layer.A.grad is None for layer in adapted.layers.values())
