"""PrecLoRA: its formula in float64, twenty steps of it and of PEFT's, B = 0, and what its damping sees."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_riemannian_optimizer
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim import stacks
from reflora_cli.optim.optimizers import roles_of
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.preclora import PrecLoRARule
from reflora_cli.optim.scaled_gd import ScaledGDRule
from tests.unit.optim.references import HandAdam, conditioned, grad, pair_of, problem, random_pairs


def preconditioned(A: Tensor, B: Tensor, gA: Tensor, gB: Tensor, d: float) -> tuple[Tensor, Tensor]:
    """The formula, by general inverses."""
    eye = torch.eye(len(A), dtype=A.dtype)
    return torch.linalg.inv(B.T @ B + d * eye) @ gA, gB @ torch.linalg.inv(A @ A.T + d * eye)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("d", "tolerance"), [(1e-6, 1e-10), (1e-2, 1e-5), (100.0, 1e-5)])
def test_gradients_are_multiplied_by_inverses_of_grams_plus_d(
    d: float, tolerance: float, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pair by pair as on a CPU, and stacked as on a GPU; from d = 1e-3 on, products are float32."""
    monkeypatch.setattr(stacks, "one_by_one", lambda device: not together)
    pairs, _ = random_pairs()
    expected = [preconditioned(pair.A.detach(), pair.B.detach(), grad(pair.A), grad(pair.B), d) for pair in pairs]
    rule = PrecLoRARule(pairs, 0, 1, d)
    rule.before_step()
    for pair, right in zip(pairs, expected, strict=True):
        for own, formula in zip((pair.A, pair.B), right, strict=True):
            assert (grad(own) - formula).norm() < tolerance * formula.norm()
    assert rule.stepped_plainly() == []


def optimizer_of(pair: FactorPair, rule: PrecLoRARule | ScaledGDRule, kind: str, rate: float = 1e-2) -> Partition:
    group = {"params": [pair.A, pair.B], "lr": rate, "weight_decay": 0.0}
    return PairAdamW([group], rule) if kind == "adamw" else PairSGD([group], rule, 0.0)


@pytest.mark.parametrize("d", [1e-6, 1e-4])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_twenty_steps_from_zero_follow_the_formula(kind: str, d: float) -> None:
    """Without a warm-up. Both Grams are of the factors before the step; with B of the step before last, as in the
    authors' code, the path is another one."""
    X, target, A0, B0 = problem()
    pair = pair_of(A0, B0)
    optimizer = optimizer_of(pair, PrecLoRARule([pair], 0, 1, d), kind)
    for _ in range(20):
        optimizer.zero_grad()
        (X @ pair.A.T @ pair.B.T - target).square().mean().backward()
        optimizer.step()
    for aliased in (False, True):
        A, B, adam_A, adam_B = A0, B0, HandAdam(1e-2), HandAdam(1e-2)
        for _ in range(20):
            residual = 2 * (X @ A.T @ B.T - target) / target.numel()
            raw_A, raw_B = B.T @ residual.T @ X, residual.T @ X @ A.T
            gA, gB = preconditioned(A, B, raw_A, raw_B, d)
            A = adam_A(A, gA) if kind == "adamw" else A - 1e-2 * gA
            if aliased:
                gB = preconditioned(A, B, raw_A, raw_B, d)[1]
            B = adam_B(B, gB) if kind == "adamw" else B - 1e-2 * gB
        found = (pair.A.detach(), A), (pair.B.detach(), B)
        distance = max(float((own - right).norm() / right.norm()) for own, right in found)
        assert distance > 1e-5 if aliased else distance < 1e-6


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_twenty_steps_are_those_of_peft_s_riemannian_optimizer(kind: str) -> None:
    """On one model of PEFT's in float32, with PEFT's own default of d = 1e-2; AdamW is torch's in both."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 5))
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0", "2"])
    theirs = get_peft_model(net, config)  # type: ignore[arg-type]
    ours = copy.deepcopy(theirs)
    own = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[kind]
    peft_s = create_riemannian_optimizer(theirs, own, lr=1e-2, reg=1e-2, weight_decay=0.0)
    roles = roles_of(ours)
    factors = [factor for pair in roles.pairs for factor in (pair.A, pair.B)]
    rule, group = PrecLoRARule(roles.pairs, 0, 1, 1e-2), {"params": factors, "lr": 1e-2, "weight_decay": 0.0}
    optimizer: Partition = PairAdamW([group], rule) if kind == "adamw" else PairSGD([group], rule, 0.0)
    X, target = torch.randn(64, 12), torch.randn(64, 5)
    for _ in range(20):
        for model, step in ((theirs, peft_s), (ours, optimizer)):
            step.zero_grad()
            (model(X) - target).square().mean().backward()
            step.step()
    begun = 0
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if "lora_" in name:
            begun += bool(one.any())
            assert (one - other).detach().norm() < 1e-5 * other.detach().norm(), name
    assert begun == 4


def test_at_zero_a_stays_and_b_moves_and_nothing_is_called_plain() -> None:
    X, target, A, B = problem()
    pair = pair_of(A, B)
    rule = PrecLoRARule([pair], 0, 1, 1e-6)
    optimizer = optimizer_of(pair, rule, "sgd")
    (X @ pair.A.T @ pair.B.T - target).square().mean().backward()
    optimizer.step()
    assert torch.equal(pair.A, A)
    assert pair.B.any()
    assert rule.stepped_plainly() == []


def test_absolute_damping_sees_how_ba_is_factored_and_relative_damping_does_not() -> None:
    """Twenty steps of gradient descent from factors of one BA whose sizes are 30 times apart; both at a damping that
    acts."""
    X, target, A, _ = problem()
    B = 0.3 * conditioned(8, 3, 5.0, torch.Generator().manual_seed(4))
    products: dict[str, list[Tensor]] = {"absolute": [], "relative": []}
    for scale in (1.0, 30.0):
        for name, found in products.items():
            pair = pair_of(A * scale, B / scale)
            rule = PrecLoRARule([pair], 0, 1, 1e-2) if name == "absolute" else ScaledGDRule([pair], 0, 1, 1e-1)
            optimizer = optimizer_of(pair, rule, "sgd")
            for _ in range(20):
                optimizer.zero_grad()
                (X @ pair.A.T @ pair.B.T - target).square().mean().backward()
                optimizer.step()
            found.append((pair.B @ pair.A - B @ A).detach())
    apart = {name: float((one - other).norm() / one.norm()) for name, (one, other) in products.items()}
    assert apart["relative"] < 1e-4
    assert apart["absolute"] > 0.1
