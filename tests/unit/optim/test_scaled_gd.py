"""ScaledGD: its formula in float64, twenty steps of it, one step that solves a least squares, and pairs without it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.optim import stacks
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.scaled_gd import ScaledGDRule
from tests.unit.optim.references import HandAdam, conditioned, grad, pair_of, random_pairs


def inverses(A: Tensor, B: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Damped (A A^T)^-1 and (B^T B)^-1 [r, r], by general inverses in float64."""
    A, B = A.detach().double(), B.detach().double()
    GA, GB = A @ A.T, B.T @ B
    f = (damping * torch.linalg.matrix_norm(B @ A, 2)) ** 2
    return torch.linalg.inv(GA + f * torch.linalg.inv(GB)), torch.linalg.inv(GB + f * torch.linalg.inv(GA))


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    ("damping", "tolerance"), [(0.0, 1e-11), (1e-6, 1e-11), (1e-4, 1e-11), (1e-3, 1e-4), (0.1, 1e-4)]
)
def test_gradients_are_multiplied_by_inverse_grams(
    damping: float, tolerance: float, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pair by pair as on a CPU, and stacked as on a GPU; from a damping of 1e-3 on, products are float32."""
    monkeypatch.setattr(stacks, "one_by_one", lambda device: not together)
    pairs, _ = random_pairs()
    before = [(grad(pair.A).clone(), grad(pair.B).clone()) for pair in pairs]
    ScaledGDRule(pairs, 0, 1, damping).before_step()
    for pair, (gA, gB) in zip(pairs, before, strict=True):
        GA_inverse, GB_inverse = inverses(pair.A, pair.B, damping)
        for found, right in ((grad(pair.A), GB_inverse @ gA), (grad(pair.B), gB @ GA_inverse)):
            assert (found - right).norm() < tolerance * right.norm()


@pytest.mark.parametrize("damping", [0.0, 1e-4, 1e-3])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_twenty_steps_follow_the_formula(kind: str, damping: float) -> None:
    """Against hand-written optimizers in float64; both Grams are of the factors before the step."""
    g = torch.Generator().manual_seed(3)
    X = torch.randn(40, 6, dtype=torch.float64, generator=g)
    target = X @ torch.randn(6, 8, dtype=torch.float64, generator=g)
    A, B = conditioned(3, 6, 2.0, g), 0.3 * conditioned(8, 3, 5.0, g)
    pair = pair_of(A, B)
    group = {"params": [pair.A, pair.B], "lr": 1e-2, "weight_decay": 0.0}
    rule = ScaledGDRule([pair], 0, 1, damping)
    optimizer = PairAdamW([group], rule) if kind == "adamw" else PairSGD([group], rule, 0.0)
    adam_A, adam_B = HandAdam(1e-2), HandAdam(1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        (X @ pair.A.T @ pair.B.T - target).square().mean().backward()
        optimizer.step()
        residual = 2 * (X @ A.T @ B.T - target) / target.numel()
        GA_inverse, GB_inverse = inverses(A, B, damping)
        gA, gB = GB_inverse @ B.T @ residual.T @ X, residual.T @ X @ A.T @ GA_inverse
        A, B = (adam_A(A, gA), adam_B(B, gB)) if kind == "adamw" else (A - 1e-2 * gA, B - 1e-2 * gB)
    for found, right in ((pair.A, A), (pair.B, B)):
        assert (found - right).norm() < 1e-6 * right.norm()


@pytest.mark.parametrize("trained", ["A", "B"])
def test_one_step_at_a_rate_of_one_solves_the_least_squares_with_the_other_factor_fixed(trained: str) -> None:
    """min ||BA - M||^2 / 2 over A is B^+ M, over B it is M A^+, from wherever the factor starts."""
    (pair,), _ = random_pairs([(12, 10, 3)])
    M = torch.randn(12, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    A, B = pair.A.detach().clone(), pair.B.detach().clone()
    solution = torch.linalg.pinv(B) @ M if trained == "A" else M @ torch.linalg.pinv(A)
    optimizer = PairSGD(
        [{"params": [pair.A, pair.B], "lr": 1.0, "weight_decay": 0.0}], ScaledGDRule([pair], 0, 1, 0.0), 0.0
    )
    optimizer.zero_grad()
    fixed = (B, pair.A) if trained == "A" else (pair.B, A)
    (0.5 * (fixed[0] @ fixed[1] - M).square().sum()).backward()
    optimizer.step()
    torch.testing.assert_close(getattr(pair, trained).detach(), solution, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("scale", [0.0, 1e-19])
def test_a_pair_without_inverses_steps_plainly_and_its_neighbours_do_not(scale: float, damping: float) -> None:
    """At B = 0 there is no inverse of B^T B, and with the tiniest B it leaves float32's range."""
    pairs, _ = random_pairs([(12, 10, 3)] * 3)
    with torch.no_grad():
        pairs[1].B.mul_(scale)
    before = [(grad(pair.A).clone(), grad(pair.B).clone()) for pair in pairs]
    rule = ScaledGDRule(pairs, 0, 1, damping)
    rule.before_step()
    assert rule.stepped_plainly() == ["layers.1"]
    for n, (pair, (gA, gB)) in enumerate(zip(pairs, before, strict=True)):
        for found, old in ((grad(pair.A), gA), (grad(pair.B), gB)):
            assert torch.equal(found, old.float().double() if damping else old) == (n == 1)


def test_with_damping_a_ba_of_lower_rank_has_finite_gradients() -> None:
    """What lies outside of BA is multiplied by at most 1 / damping^2, relative to the rest."""
    (pair,), _ = random_pairs([(12, 10, 3)])
    with torch.no_grad():
        pair.B[:, 0] = pair.B[:, 1]
    rule = ScaledGDRule([pair], 0, 1, 1e-3)
    rule.before_step()
    assert rule.stepped_plainly() == []
    assert grad(pair.A).isfinite().all()
    assert grad(pair.B).isfinite().all()


def test_the_matrices_in_use_are_saved_by_module() -> None:
    pairs, _ = random_pairs()
    rule = ScaledGDRule(pairs, 0, 2, 1e-3)
    rule.before_step()
    rule.after_step({})
    names = {f"{key}.{pair.name}" for key in ("GA_inverse", "GB_inverse") for pair in pairs}
    tensors = rule.tensors()
    assert tensors.keys() == {"steps"} | names
    other = ScaledGDRule(pairs[::-1], 0, 2, 1e-3)
    other.load_tensors(tensors)
    assert all(torch.equal(tensors[name], tensor) for name, tensor in other.tensors().items())


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_matrices_from_a_file_multiply_to_the_same_bits(damping: float) -> None:
    """Products round otherwise for a matrix that is stored column by column, as some inverses are computed."""
    found = []
    for continues in (False, True):
        pairs, _ = random_pairs([(64, 64, 16)])
        rule = ScaledGDRule(pairs, 0, 2, damping)
        rule.before_step()
        rule.after_step({})
        if continues:
            saved = {key: tensor.clone(memory_format=torch.contiguous_format) for key, tensor in rule.tensors().items()}
            rule = ScaledGDRule(pairs, 0, 2, damping)
            rule.load_tensors(saved)
        rule.before_step()
        found.append((grad(pairs[0].A), grad(pairs[0].B)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
