"""BaLoRA: equal Grams, an unchanged product, what becomes of the moments, and paths written by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim import stacks
from reflora_cli.optim.balanced import BalancedRule, keep_moments, transport_moments
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.reflora_s import RefLoRASRule
from reflora_cli.optim.rule import PlainRule, UpdateRule
from tests.unit.optim.references import HandAdam, conditioned, metric_by_svd, pair_of, relative

Balanced = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def factors(seed: int = 0, ratio: float = 0.05) -> tuple[Tensor, Tensor]:
    """A [3, 6] and B [8, 3] in float64, B smaller by `ratio`."""
    g = torch.Generator().manual_seed(seed)
    return conditioned(3, 6, 2.0, g), ratio * conditioned(8, 3, 5.0, g)


def roots(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """S^1/2 and S^-1/2 [r, r], from the S of a singular value decomposition."""
    values, Q = torch.linalg.eigh(metric_by_svd(A, B)[0])
    return Q * values.sqrt() @ Q.T, Q / values.sqrt() @ Q.T


def nearest(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    root, inverse = roots(A, B)
    return root @ A, B @ inverse


def singular(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """The paper's own: rows and columns along the singular vectors of BA."""
    U, sigma, Vh = torch.linalg.svd(B @ A)
    r = len(A)
    return sigma[:r].sqrt()[:, None] * Vh[:r], U[:, :r] * sigma[:r].sqrt()


def rule_of(*pairs: FactorPair, warmup: int = 0, interval: int = 1) -> BalancedRule:
    return BalancedRule(pairs, warmup, interval, keep_moments)


def problem() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    X = torch.randn(40, 6, dtype=torch.float64, generator=g)
    return X, X @ torch.randn(6, 8, dtype=torch.float64, generator=g)


def gradients(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Those of the mean square of X A^T B^T - target, by hand."""
    X, target = problem()
    residual = 2 * (X @ A.T @ B.T - target) / target.numel()
    return B.T @ residual.T @ X, residual.T @ X @ A.T


def train(pair: FactorPair, optimizer: Partition, steps: int) -> list[Tensor]:
    """The product BA after every step."""
    X, target = (tensor.to(pair.A.dtype) for tensor in problem())
    products = []
    for _ in range(steps):
        optimizer.zero_grad()
        (X @ pair.A.T @ pair.B.T - target).square().mean().backward()
        optimizer.step()
        products.append((pair.B @ pair.A).detach().double())
    return products


def descent(pair: FactorPair, rule: UpdateRule, momentum: float = 0.0) -> Partition:
    return PairSGD([{"params": [pair.A, pair.B], "lr": 0.1, "weight_decay": 0.0}], rule, momentum)


def adamw(pair: FactorPair, rule: UpdateRule) -> Partition:
    return PairAdamW([{"params": [pair.A, pair.B], "lr": 1e-2, "weight_decay": 0.0}], rule)


def apart(found: list[Tensor], expected: list[Tensor]) -> float:
    return max(relative(own, other) for own, other in zip(found, expected, strict=True))


@given(st.integers(0, 2**31), st.floats(1e-4, 1e4))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_grams_are_equal_afterwards_and_the_product_is_the_same(seed: int, ratio: float) -> None:
    A, B = factors(seed, ratio)
    pair = pair_of(A, B)
    rule_of(pair).refactor({})
    assert relative((pair.A @ pair.A.T).detach(), (pair.B.T @ pair.B).detach()) < 1e-9
    assert relative((pair.B @ pair.A).detach(), B @ A) < 1e-12
    assert relative(pair.A.detach(), nearest(A, B)[0]) < 1e-9


def test_in_float32_the_product_changes_by_its_rounding_alone() -> None:
    """Between factors a thousand times apart, and again between balanced ones. Measured: 8e-8 and 6e-8."""
    A, B = (factor.float() for factor in factors(ratio=1e-3))
    pair = pair_of(A, B)
    for _ in range(2):
        before = (pair.B.double() @ pair.A.double()).detach()
        rule_of(pair).refactor({})
        assert relative((pair.B.double() @ pair.A.double()).detach(), before) < 4e-7
    assert relative((pair.A @ pair.A.T).detach(), (pair.B.T @ pair.B).detach().double()) < 1e-5


def test_many_pairs_together_and_stacked_as_on_a_gpu_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for stacked in (False, True):
        pairs = [pair_of(*factors(seed, 0.1 * (seed + 1)), f"{seed}") for seed in range(5)]
        pairs.append(
            pair_of(torch.randn(2, 9, generator=torch.Generator().manual_seed(1)).double(), torch.eye(4, 2).double())
        )
        with monkeypatch.context() as patch:
            patch.setattr(stacks, "one_by_one", lambda device, stacked=stacked: not stacked)
            rule_of(*pairs).refactor({})
        found.append([factor.detach() for pair in pairs for factor in (pair.A, pair.B)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_balanced_factors_stay_as_they_are() -> None:
    pair = pair_of(*nearest(*factors()))
    before = pair.A.detach().clone()
    rule_of(pair).refactor({})
    assert relative(pair.A.detach(), before) < 1e-10


@pytest.mark.parametrize("bad", [0.0, torch.nan])
def test_a_pair_that_cannot_be_balanced_is_left_alone_and_its_neighbour_is_not(bad: float) -> None:
    """B = 0 is how every run starts."""
    A, B = (factor.float() for factor in factors())
    for values in ((A, B * bad), (A * bad, B)):
        pair, neighbour = pair_of(*values), pair_of(A, B)
        rule_of(pair, neighbour).refactor({})
        assert torch.equal(pair.A.nan_to_num(), values[0].nan_to_num())
        assert torch.equal(pair.B.nan_to_num(), values[1].nan_to_num())
        assert relative((neighbour.A @ neighbour.A.T).detach(), (neighbour.B.T @ neighbour.B).detach().double()) < 1e-5


def test_a_ba_of_lower_rank_stays_finite_and_the_same() -> None:
    A, B = (factor.float() for factor in factors())
    B[:, 0] = B[:, 1]
    pair = pair_of(A, B)
    for _ in range(5):
        rule_of(pair).refactor({})
    assert pair.A.isfinite().all()
    assert relative((pair.B.double() @ pair.A.double()).detach(), B.double() @ A.double()) < 1e-5


@pytest.mark.parametrize("balanced", [nearest, singular], ids=lambda way: way.__name__)
def test_gradient_descent_goes_as_with_either_balance_written_by_hand(balanced: Balanced) -> None:
    """Ours and the paper's, which differ by orthogonal matrices: BA goes the same way."""
    A, B = factors()
    pair = pair_of(A, B)
    products = train(pair, descent(pair, rule_of(pair)), 20)
    by_hand = []
    for _ in range(20):
        gA, gB = gradients(A, B)
        A, B = balanced(A - 0.1 * gA, B - 0.1 * gB)
        by_hand.append(B @ A)
    assert apart(products, by_hand) < 1e-8


@pytest.mark.parametrize("transport", [False, True])
def test_twenty_steps_of_adam_follow_balancing_written_by_hand(transport: bool) -> None:
    """Float32 factors against float64: 5 plain steps, then 20."""
    A, B = factors()
    pair = pair_of(A.float(), B.float())
    train(pair, adamw(pair, BalancedRule([pair], 5, 1, transport_moments if transport else keep_moments)), 25)
    adam_A, adam_B = HandAdam(1e-2), HandAdam(1e-2)
    for step in range(1, 26):
        gA, gB = gradients(A, B)
        A, B = adam_A(A, gA), adam_B(B, gB)
        if step >= 5:
            root, inverse = roots(A, B)
            A, B = root @ A, B @ inverse
            if transport:
                adam_A.m, adam_A.v = inverse @ adam_A.m, inverse**2 @ adam_A.v
                adam_B.m, adam_B.v = adam_B.m @ root, adam_B.v @ root**2
    assert relative(pair.A.detach(), A) < 1e-5
    assert relative(pair.B.detach(), B) < 1e-5


def test_moments_that_are_kept_stay_to_the_bit() -> None:
    pair = pair_of(*factors())
    optimizer = adamw(pair, PlainRule())
    train(pair, optimizer, 3)
    kept = {key: optimizer.state[pair.A][key].clone() for key in ("exp_avg", "exp_avg_sq")}
    rule_of(pair).refactor(optimizer.state)
    assert all(torch.equal(optimizer.state[pair.A][key], own) for key, own in kept.items())


def test_momentum_that_is_transported_is_a_sum_of_the_new_factors_gradients() -> None:
    """Gradients of A' = T A and B' = B T^-1 at the same BA are T^-1 gA and gB T, and so are their sums."""
    A, B = factors()
    pair = pair_of(A, B)
    optimizer = descent(pair, PlainRule(), momentum=0.9)
    train(pair, optimizer, 1)
    with torch.no_grad():
        pair.A.copy_(A)
        pair.B.copy_(B)
    BalancedRule([pair], 0, 1, transport_moments).refactor(optimizer.state)
    gA, gB = gradients(pair.A.detach(), pair.B.detach())
    torch.testing.assert_close(optimizer.state[pair.A]["momentum_buffer"], gA, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(optimizer.state[pair.B]["momentum_buffer"], gB, rtol=1e-8, atol=1e-12)


def test_a_factor_without_moments_has_none_to_move() -> None:
    pair, other = pair_of(*factors(1)), pair_of(*factors(2))
    state = {pair.A: {"exp_avg": torch.ones(3, 6, dtype=torch.float64)}, pair.B: {}}
    before = state[pair.A]["exp_avg"].clone()
    BalancedRule([pair, other], 0, 1, transport_moments).refactor(state)
    inverse = roots(*factors(1))[1]
    torch.testing.assert_close(state[pair.A]["exp_avg"], inverse @ before, rtol=1e-8, atol=0)


def test_at_rank_one_it_is_reflora_s() -> None:
    g = torch.Generator().manual_seed(0)
    A, B = conditioned(1, 6, 1.0, g), 9 * conditioned(8, 1, 1.0, g)
    pair, other = pair_of(A, B), pair_of(A, B)
    products = train(pair, adamw(pair, BalancedRule([pair], 1, 1, transport_moments)), 20)
    assert apart(products, train(other, adamw(other, RefLoRASRule([other], 1, 1)), 20)) < 1e-8


@pytest.mark.parametrize(("warmup", "interval", "expected"), [(0, 1, [1, 2, 3, 4, 5]), (0, 2, [2, 4]), (2, 3, [2, 5])])
@pytest.mark.parametrize("stop", [0, 1, 2, 4])
def test_it_acts_after_step_warmup_and_every_interval_from_there_also_when_resumed(
    warmup: int, interval: int, expected: list[int], stop: int
) -> None:
    pair, found = pair_of(*factors()), []
    rule = rule_of(pair, warmup=warmup, interval=interval)
    for step in range(1, 6):
        if step == stop + 1:
            saved, rule = rule.tensors(), rule_of(pair, warmup=warmup, interval=interval)
            rule.load_tensors(saved)
        with torch.no_grad():
            pair.A.mul_(2)
        before = pair.A.detach().clone()
        rule.before_step()
        rule.after_step({})
        if not torch.equal(pair.A, before):
            found.append(step)
    assert found == expected
