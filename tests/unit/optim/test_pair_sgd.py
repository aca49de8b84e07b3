"""Gradient descent around a rule: what it computes, RefLoRA's theorem, and a state that is restored to the bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.preconditioned import PreconditionedRule
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.reflora_s import RefLoRASRule
from reflora_cli.optim.rule import PlainRule, UpdateRule
from reflora_cli.optim.scaled_gd import ScaledGDRule
from tests.unit.optim.references import conditioned, pair_of

Optimizer = PairSGD | PairAdamW
RULES: dict[str, Callable[[FactorPair], UpdateRule]] = {
    "plain": lambda pair: PlainRule(),
    "reflora": lambda pair: RefLoRARule([pair], 1, 1, 1e-3),
    "reflora, interval 3": lambda pair: RefLoRARule([pair], 1, 3, 1e-3),
    "reflora-s": lambda pair: RefLoRASRule([pair], 1, 2),
}


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X [40, 6], a target [40, 8] of a weight of full rank, and A [3, 6], B [8, 3] to start from, in float64."""
    g = torch.Generator().manual_seed(3)
    X = torch.randn(40, 6, dtype=torch.float64, generator=g)
    target = X @ torch.randn(6, 8, dtype=torch.float64, generator=g)
    return X, target, conditioned(3, 6, 2.0, g), 0.3 * conditioned(8, 3, 5.0, g)


def sgd(pair: FactorPair, rule: UpdateRule, momentum: float = 0.9, decay: float = 0.1) -> PairSGD:
    return PairSGD([{"params": [pair.A, pair.B], "lr": 0.05, "weight_decay": decay}], rule, momentum)


def train(pair: FactorPair, optimizer: Optimizer, steps: int) -> Tensor:
    """The product BA afterwards."""
    X, target = (tensor.to(pair.A.dtype) for tensor in problem()[:2])
    for _ in range(steps):
        optimizer.zero_grad()
        (X @ pair.A.T @ pair.B.T - target).square().mean().backward()
        optimizer.step()
    return (pair.B @ pair.A).detach().double()


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def test_a_step_is_decay_and_momentum_written_by_hand() -> None:
    """Decay is decoupled: it does not enter the momentum. A parameter without a gradient is not decayed."""
    parameter, still = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0]))
    optimizer = PairSGD([{"params": [parameter, still], "lr": 0.5, "weight_decay": 0.1}], PlainRule(), 0.9)
    value, velocity = 2.0, 0.0
    for gradient in (1.0, -2.0, 0.5):
        parameter.grad = torch.tensor([gradient])
        optimizer.step()
        velocity = 0.9 * velocity + gradient
        value = value * (1 - 0.5 * 0.1) - 0.5 * velocity
        assert parameter.item() == pytest.approx(value, rel=1e-6)
    assert still.item() == 3.0


def test_a_closure_gives_the_rule_its_gradients() -> None:
    X, target, A, B = problem()
    pair, other = pair_of(A, B), pair_of(A, B)
    optimizer = sgd(pair, RULES["reflora"](pair))

    def closure() -> float:
        optimizer.zero_grad()
        loss = (X @ pair.A.T @ pair.B.T - target).square().mean()
        loss.backward()
        return loss.item()

    losses = [optimizer.step(closure) for _ in range(4)]
    assert torch.equal((pair.B @ pair.A).detach(), train(other, sgd(other, RULES["reflora"](other)), 4))
    assert losses == sorted(losses, reverse=True)


def gauged(optimizer_of: Callable[[FactorPair], Optimizer]) -> float:
    """How far apart (A, B) and (T^-1 A, B T) have moved BA after 20 steps, relative to BA."""
    A, B = problem()[2:]
    T = conditioned(3, 3, 10.0, torch.Generator().manual_seed(8))
    pair, other = pair_of(A, B), pair_of(torch.linalg.solve(T, A), B @ T)
    return relative(train(other, optimizer_of(other), 20), train(pair, optimizer_of(pair), 20))


@pytest.mark.parametrize("rule", [RefLoRARule, ScaledGDRule])
@pytest.mark.parametrize("damping", [0.0, 1e-4])
@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.1)])
def test_under_gradient_descent_the_rule_does_not_see_how_the_product_is_factored(
    momentum: float, decay: float, damping: float, rule: type[PreconditionedRule]
) -> None:
    """The papers' theorem, whole trajectories long. Plain gradient descent sees it."""
    assert gauged(lambda pair: sgd(pair, rule([pair], 0, 1, damping), momentum, decay)) < 1e-9
    assert gauged(lambda pair: sgd(pair, PlainRule(), momentum, decay)) > 0.1


@pytest.mark.parametrize("rule", [RefLoRARule, ScaledGDRule])
def test_under_adamw_the_rule_sees_it(rule: type[PreconditionedRule]) -> None:
    def adamw(pair: FactorPair) -> PairAdamW:
        group = {"params": [pair.A, pair.B], "lr": 0.05, "weight_decay": 0.0}
        return PairAdamW([group], rule([pair], 0, 1, 0.0))

    assert gauged(adamw) > 0.1


def test_reflora_s_moves_the_momentum_with_the_factors() -> None:
    """20 steps against refactoring by hand, where the sums of gradients so far become those of the new factors."""
    X, target, A, B = problem()
    pair = pair_of(A, B)
    found = train(pair, sgd(pair, RefLoRASRule([pair], 2, 1), decay=0.0), 20)
    vA, vB = torch.zeros_like(A), torch.zeros_like(B)
    for step in range(1, 21):
        residual = 2 * (X @ A.T @ B.T - target) / target.numel()
        vA, vB = 0.9 * vA + B.T @ residual.T @ X, 0.9 * vB + residual.T @ X @ A.T
        A, B = A - 0.05 * vA, B - 0.05 * vB
        if step >= 2:
            p = (B.norm() / A.norm()).sqrt()
            A, B, vA, vB = p * A, B / p, vA / p, p * vB
    assert relative(found, B @ A) < 1e-11
    assert pair.A.norm().item() == pytest.approx(pair.B.norm().item())


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(
    rule: str, stop: int, momentum: float, tmp_path: Path
) -> None:
    """A step that a gradient scaler skipped is not in it."""
    straight, before, after = (pair_of(*(factor.float() for factor in problem()[2:])) for _ in range(3))
    train(straight, sgd(straight, RULES[rule](straight), momentum), 9)
    optimizer = sgd(before, RULES[rule](before), momentum)
    train(before, optimizer, stop)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(before.A.sum() * torch.inf).backward()
    scaler.step(optimizer)
    save_file(optimizer.tensors({"A": before.A, "B": before.B}), tmp_path / "optimizer.safetensors")
    with torch.no_grad():
        after.A.copy_(before.A)
        after.B.copy_(before.B)
    optimizer = sgd(after, RULES[rule](after), momentum)
    optimizer.load_tensors({"A": after.A, "B": after.B}, load_file(tmp_path / "optimizer.safetensors"))
    train(after, optimizer, 9 - stop)
    assert torch.equal(after.A, straight.A)
    assert torch.equal(after.B, straight.B)


@pytest.mark.parametrize("rule", RULES)
def test_torch_s_state_carries_the_rule(rule: str, tmp_path: Path) -> None:
    """Stopped within the warm-up, and between two computations of S."""
    for stop in (1, 3):
        straight, stopped, after = (pair_of(*(factor.float() for factor in problem()[2:])) for _ in range(3))
        train(straight, sgd(straight, RULES[rule](straight)), 9)
        optimizer = sgd(stopped, RULES[rule](stopped))
        train(stopped, optimizer, stop)
        torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
        with torch.no_grad():
            after.A.copy_(stopped.A)
            after.B.copy_(stopped.B)
        optimizer = sgd(after, RULES[rule](after))
        optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
        train(after, optimizer, 9 - stop)
        assert torch.equal(after.A, straight.A)
        assert torch.equal(after.B, straight.B)
