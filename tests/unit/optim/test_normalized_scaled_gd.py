"""The update of NoRA+ against its formula, at B = 0 and soon after, with gradients in several micro-batches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.optim import stacks
from reflora_cli.optim.normalized_scaled_gd import NormalizedScaledGDRule
from reflora_cli.optim.pair_adamw import PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.partition import Partition
from tests.unit.optim.references import HandAdam, conditioned, grad, pair_of, problem, random_pairs


def preconditioned(A: Tensor, B: Tensor, gA: Tensor, gB: Tensor, d: float) -> tuple[Tensor, Tensor]:
    """The formula, by general inverses."""
    eye = torch.eye(len(A), dtype=A.dtype)
    M, N = torch.linalg.inv(B.T @ B + d * eye), torch.linalg.inv(A @ A.T + d * eye)
    return M / M.square().sum().sqrt() @ gA, gB @ N / N.square().sum().sqrt()


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(("d", "tolerance"), [(1e-6, 1e-10), (1e-2, 1e-5)])
def test_gradients_are_multiplied_by_matrices_of_norm_1(
    d: float, tolerance: float, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "one_by_one", lambda device: not together)
    pairs, _ = random_pairs()
    expected = [preconditioned(pair.A.detach(), pair.B.detach(), grad(pair.A), grad(pair.B), d) for pair in pairs]
    rule = NormalizedScaledGDRule(pairs, 0, 1, d)
    rule.before_step()
    for pair, right in zip(pairs, expected, strict=True):
        for own, formula in zip((pair.A, pair.B), right, strict=True):
            assert (grad(own) - formula).norm() < tolerance * formula.norm()
    # At rank 1 the matrices are the identity, which is no failure.
    assert rule.stepped_plainly() == []


def test_at_zero_the_matrix_is_a_multiple_of_the_identity() -> None:
    pair = pair_of(conditioned(3, 10, 5.0, torch.Generator().manual_seed(0)), torch.zeros(12, 3, dtype=torch.float64))
    pair.A.grad, pair.B.grad = torch.ones_like(pair.A), torch.ones_like(pair.B)
    NormalizedScaledGDRule([pair], 0, 1, 1e-6).before_step()
    torch.testing.assert_close(pair.A.grad, torch.full_like(pair.A, 3**-0.5), rtol=1e-9, atol=0)


def test_a_pair_that_is_not_finite_leaves_its_neighbours_alone() -> None:
    g = torch.Generator().manual_seed(0)
    pairs = [pair_of(conditioned(3, 10, 5.0, g), conditioned(12, 3, 5.0, g), f"layers.{n}") for n in range(2)]
    with torch.no_grad():
        pairs[0].B[0, 0] = torch.nan
    for pair in pairs:
        pair.A.grad, pair.B.grad = torch.ones_like(pair.A), torch.ones_like(pair.B)
    A, B = pairs[1].A.detach(), pairs[1].B.detach()
    expected = preconditioned(A, B, torch.ones_like(A), torch.ones_like(B), 1e-6)
    NormalizedScaledGDRule(pairs, 0, 1, 1e-6).before_step()
    assert torch.equal(grad(pairs[0].A), torch.ones_like(pairs[0].A))
    torch.testing.assert_close((grad(pairs[1].A), grad(pairs[1].B)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_twenty_steps_from_zero_follow_the_formula_once_in_a_step(kind: str, micro_batches: int) -> None:
    """Gradients of micro-batches are summed first; the authors' code multiplies those of earlier ones again."""
    X, target, A, B = problem()
    pair = pair_of(A, B)
    group, rule = (
        {"params": [pair.A, pair.B], "lr": 1e-2, "weight_decay": 0.0},
        NormalizedScaledGDRule([pair], 0, 1, 1e-6),
    )
    optimizer: Partition = PairAdamW([group], rule) if kind == "adamw" else PairSGD([group], rule, 0.0)
    adam_A, adam_B = HandAdam(1e-2), HandAdam(1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        for x, y in zip(X.chunk(micro_batches), target.chunk(micro_batches), strict=True):
            ((x @ pair.A.T @ pair.B.T - y).square().sum() / target.numel()).backward()
        optimizer.step()
        residual = 2 * (X @ A.T @ B.T - target) / target.numel()
        gA, gB = preconditioned(A, B, B.T @ residual.T @ X, residual.T @ X @ A.T, 1e-6)
        A, B = (adam_A(A, gA), adam_B(B, gB)) if kind == "adamw" else (A - 1e-2 * gA, B - 1e-2 * gB)
    for found, right in ((pair.A, A), (pair.B, B)):
        assert (found - right).detach().norm() < 1e-6 * right.norm()


def test_steps_of_gradient_descent_soon_after_zero_are_no_longer_than_the_gradient() -> None:
    """Where PrecLoRA's are a thousand times as long."""
    g = torch.Generator().manual_seed(0)
    pair = pair_of(conditioned(3, 10, 5.0, g), 1e-3 * conditioned(12, 3, 5.0, g))
    pair.A.grad, pair.B.grad = torch.ones_like(pair.A), torch.ones_like(pair.B)
    NormalizedScaledGDRule([pair], 0, 1, 1e-6).before_step()
    assert grad(pair.A).norm() <= pair.A.numel() ** 0.5
    assert grad(pair.B).norm() <= pair.B.numel() ** 0.5
