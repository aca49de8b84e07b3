"""RefLoRA-S: balance, an unchanged product, exact transport of Adam's moments, and when it acts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim import stacks
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.reflora_s import RefLoRASRule, refactor
from reflora_cli.optim.rule import PlainRule, UpdateRule
from tests.unit.optim.references import HandAdam, conditioned, pair_of, relative


def factors(seed: int = 0, ratio: float = 0.05) -> tuple[Tensor, Tensor]:
    """A [3, 6] and B [8, 3] in float64, B smaller by `ratio`."""
    g = torch.Generator().manual_seed(seed)
    return conditioned(3, 6, 2.0, g), ratio * conditioned(8, 3, 5.0, g)


def problem() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(7)
    X = torch.randn(40, 6, dtype=torch.float64, generator=g)
    return X, X @ torch.randn(6, 8, dtype=torch.float64, generator=g)


def train(pair: FactorPair, rule: UpdateRule, steps: int) -> list[Tensor]:
    """Adam at a rate of 1e-2; the product BA after every step."""
    X, target = (tensor.to(pair.A.dtype) for tensor in problem())
    optimizer = PairAdamW([{"params": [pair.A, pair.B], "lr": 1e-2, "weight_decay": 0.0}], rule)
    products = []
    for _ in range(steps):
        optimizer.zero_grad()
        (X @ pair.A.T @ pair.B.T - target).square().mean().backward()
        optimizer.step()
        products.append((pair.B @ pair.A).detach().clone())
    return products


@given(st.integers(0, 2**31), st.floats(1e-6, 1e6))
@settings(max_examples=30, deadline=None, derandomize=True)
def test_norms_are_equal_afterwards_and_the_product_is_the_same(seed: int, ratio: float) -> None:
    A, B = factors(seed, ratio)
    pair = pair_of(A, B)
    refactor([pair], {})
    assert pair.A.norm().item() == pytest.approx(pair.B.norm().item(), rel=1e-12)
    assert relative((pair.B @ pair.A).detach(), B @ A) < 1e-12


def test_a_gpu_s_way_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of equal shapes scaled together, here on the CPU, some of them without moments yet."""
    found = []
    for stacked in (False, True):
        pairs = [pair_of(*factors(seed, 0.1 * (seed + 1))) for seed in range(5)]
        pairs.append(pair_of(torch.ones(2, 9, dtype=torch.float64), torch.full((4, 2), 0.3, dtype=torch.float64)))
        state = {
            parameter: {"exp_avg": parameter.detach() * 2, "exp_avg_sq": parameter.detach().square()}
            for pair in pairs[1:]
            for parameter in (pair.A, pair.B)
        }
        with monkeypatch.context() as patch:
            if stacked:
                patch.setattr(stacks, "one_by_one", lambda device: False)
                patch.setattr(stacks, "STACK_ELEMENTS", 50)
            refactor(pairs, state)
        moments = [moment for own in state.values() for moment in own.values()]
        found.append([*(p.detach() for pair in pairs for p in (pair.A, pair.B)), *moments])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_moments_move_with_the_factors() -> None:
    """As though the gradients so far, gA and gB, had been those of the new factors, gA / p and p gB."""
    A, B = factors()
    pair = pair_of(A, B)
    mA, vA, mB, vB = A * 2, A**2, B * 3, B**2
    state = {
        pair.A: {"exp_avg": mA.clone(), "exp_avg_sq": vA.clone()},
        pair.B: {"exp_avg": mB.clone(), "exp_avg_sq": vB.clone()},
    }
    refactor([pair], state)
    p = (B.norm() / A.norm()).sqrt()
    expected = {pair.A: (A * p, mA / p, vA / p**2), pair.B: (B / p, mB * p, vB * p**2)}
    for factor, (value, first, second) in expected.items():
        torch.testing.assert_close(factor.detach(), value, rtol=1e-14, atol=0)
        torch.testing.assert_close(state[factor]["exp_avg"], first, rtol=1e-14, atol=0)
        torch.testing.assert_close(state[factor]["exp_avg_sq"], second, rtol=1e-14, atol=0)


def test_a_factor_that_never_had_a_gradient_has_no_moments_to_move() -> None:
    A, B = factors()
    pair, other = pair_of(A, B), pair_of(A, B)
    refactor([pair, other], {pair.A: {"exp_avg": A.clone(), "exp_avg_sq": A**2}, pair.B: {}})
    assert torch.equal(pair.A, other.A)
    assert pair.A.norm().item() == pytest.approx(pair.B.norm().item())


@pytest.mark.parametrize("bad", [0.0, 1e-30, torch.nan, torch.inf])
def test_a_pair_that_cannot_be_balanced_is_left_alone_and_its_neighbour_is_not(bad: float) -> None:
    """B = 0 is how every run starts; nothing is divided by zero."""
    A, B = (factor.float() for factor in factors())
    for values in ((A, B * bad), (A * bad, B)):
        pair, neighbour = pair_of(*values), pair_of(A, B)
        refactor([pair, neighbour], {pair.A: {"exp_avg": A.clone(), "exp_avg_sq": A**2}})
        assert torch.equal(pair.A.nan_to_num(), values[0].nan_to_num())
        assert torch.equal(pair.B.nan_to_num(), values[1].nan_to_num())
        assert neighbour.A.norm().item() == pytest.approx(neighbour.B.norm().item(), rel=1e-6)


def test_the_trajectory_does_not_depend_on_the_scale_of_the_factors() -> None:
    """(7 A, B / 7) trains as (A, B) does; under plain LoRA the products part."""
    A, B = factors()
    pair, other = pair_of(A, B), pair_of(7 * A, B / 7)
    products, others = train(pair, RefLoRASRule([pair], 0, 1), 60), train(other, RefLoRASRule([other], 0, 1), 60)
    assert max(relative(x, y) for x, y in zip(others, products, strict=True)) < 1e-11
    plain, plain_other = train(pair_of(A, B), PlainRule(), 60), train(pair_of(7 * A, B / 7), PlainRule(), 60)
    assert relative(plain_other[0], plain[0]) > 0.1


def test_balanced_factors_stay_as_they_are_to_the_bit() -> None:
    A = factors()[0].float()
    pair = pair_of(A, A.T.contiguous())
    refactor([pair], {})
    assert torch.equal(pair.A, A)


def test_twenty_steps_follow_refactoring_written_by_hand() -> None:
    """Float32 factors against float64 refactoring and a hand-written Adam: 5 plain steps, then 20; measured 9e-7."""
    A, B = factors()
    pair = pair_of(A.float(), B.float())
    train(pair, RefLoRASRule([pair], 5, 1), 25)
    X, target = problem()
    adam_A, adam_B = HandAdam(1e-2), HandAdam(1e-2)
    for step in range(1, 26):
        residual = 2 * (X @ A.T @ B.T - target) / target.numel()
        gA, gB = B.T @ residual.T @ X, residual.T @ X @ A.T
        A, B = adam_A(A, gA), adam_B(B, gB)
        if step >= 5:
            p = (B.norm() / A.norm()).sqrt()
            A, B = p * A, B / p
            adam_A.m, adam_A.v = adam_A.m / p, adam_A.v / p**2
            adam_B.m, adam_B.v = adam_B.m * p, adam_B.v * p**2
    assert relative(pair.A.detach(), A) < 1e-5
    assert relative(pair.B.detach(), B) < 1e-5


def balanced_after(rule: RefLoRASRule, pair: FactorPair, steps: int) -> list[int]:
    """The steps after which the norms are equal, when every step doubles A."""
    found = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            pair.A.mul_(2)
        rule.before_step()
        rule.after_step({})
        if torch.isclose(pair.A.norm(), pair.B.norm()):
            found.append(step)
    return found


@pytest.mark.parametrize(
    ("warmup", "interval", "expected"),
    [
        (0, 1, [1, 2, 3, 4, 5, 6, 7]),
        (0, 3, [3, 6]),
        (1, 1, [1, 2, 3, 4, 5, 6, 7]),
        (3, 1, [3, 4, 5, 6, 7]),
        (2, 3, [2, 5]),
    ],
)
def test_it_acts_after_step_warmup_and_every_interval_from_there(
    warmup: int, interval: int, expected: list[int]
) -> None:
    """So that step warmup + 1 is the first affected, as in the full variant."""
    pair = pair_of(*factors())
    assert balanced_after(RefLoRASRule([pair], warmup, interval), pair, 7) == expected


def test_without_warmup_it_acts_before_the_first_step() -> None:
    A, B = factors()
    pair, waiting = pair_of(A, B), pair_of(A, B)
    RefLoRASRule([pair], 0, 1)
    RefLoRASRule([waiting], 1, 1)
    assert pair.A.norm().item() == pytest.approx(pair.B.norm().item())
    assert torch.equal(waiting.A, A)


@pytest.mark.parametrize("stop", range(7))
def test_a_rule_saved_at_any_step_counts_on(stop: int) -> None:
    pair, other = pair_of(*factors()), pair_of(*factors())
    expected = balanced_after(RefLoRASRule([pair], 2, 3), pair, 7)
    before = RefLoRASRule([other], 2, 3)
    found = balanced_after(before, other, stop)
    after = RefLoRASRule([other], 2, 3)
    after.load_tensors(before.tensors())
    found += [stop + step for step in balanced_after(after, other, 7 - stop)]
    assert found == expected
    assert torch.equal(pair.A, other.A)


def test_a_state_that_does_not_fit_is_refused() -> None:
    rule = RefLoRASRule([], 0, 1)
    with pytest.raises(ValueError, match="missing steps"):
        rule.load_tensors({})
    with pytest.raises(ValueError, match="unexpected p"):
        rule.load_tensors({"steps": torch.tensor(1), "p": torch.ones(1)})
