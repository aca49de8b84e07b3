"""Frames of both factors against the singular value decomposition of BA, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.factors.frames import Frames, frames_of, inverse_root, spectral_loss
from tests.unit.optim.references import conditioned, orthonormal


def of(A: Tensor, B: Tensor, damping: float = 1e-3) -> Frames:
    """The frames of one pair, [r, r]."""
    return Frames(*(own[0] for own in frames_of((A @ A.T)[None], (B.T @ B)[None], damping)))


def pair(seed: int = 0, r: int = 4) -> tuple[Tensor, Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    return conditioned(r, 9, 30.0, g), 3 * conditioned(11, r, 20.0, g), g


def test_the_frames_are_the_singular_vectors_of_the_product() -> None:
    A, B, _ = pair()
    frames = of(A, B)
    phi_a, phi_b = A.T @ frames.of_a, B @ frames.of_b
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(phi_a.T @ phi_a, identity, rtol=0, atol=1e-9)
    torch.testing.assert_close(phi_b.T @ phi_b, identity, rtol=0, atol=1e-9)
    sigma = torch.linalg.svdvals(B @ A)[:4].flip(0)
    torch.testing.assert_close(phi_b * sigma @ phi_a.T, B @ A, rtol=0, atol=1e-10)


@pytest.mark.parametrize("damping", [1e-3, 0.1])
def test_gradients_and_steps_of_b_are_exact_and_those_of_a_are_damped(damping: float) -> None:
    A, B, g = pair()
    frames = of(A, B, damping)
    G = torch.randn(11, 9, dtype=torch.float64, generator=g)
    phi_a, phi_b = A.T @ frames.of_a, B @ frames.of_b
    sigma = torch.linalg.svdvals(B @ A)[:4].flip(0)
    kept = sigma / (sigma**2 + (damping * sigma[-1]) ** 2).sqrt()
    torch.testing.assert_close(G @ A.T @ frames.for_b, G @ phi_a)
    torch.testing.assert_close(frames.for_a.T @ B.T @ G, kept[:, None] * (phi_b.T @ G), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(frames.for_b.T @ A, phi_a.T)
    torch.testing.assert_close(B @ frames.for_a, phi_b * kept, rtol=1e-8, atol=1e-10)


def test_balancing_keeps_the_product_and_equates_the_grams() -> None:
    A, B, g = pair()
    T = conditioned(4, 4, 100.0, g)
    A, B = torch.linalg.solve(T, A), B @ T
    frames = of(A, B, 0.0)
    torch.testing.assert_close(B @ frames.balancing_b @ frames.balancing_a @ A, B @ A, rtol=0, atol=1e-8)
    balanced_a, balanced_b = frames.balancing_a @ A, B @ frames.balancing_b
    torch.testing.assert_close(balanced_a @ balanced_a.T, balanced_b.T @ balanced_b, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(frames.balancing_a, frames.balancing_a.T)
    assert torch.linalg.eigvalsh(frames.balancing_a)[0] > 0


def test_where_b_is_zero_b_can_move_and_a_cannot() -> None:
    A, B, _ = pair()
    frames = of(A, 0 * B)
    assert frames.valid
    torch.testing.assert_close((A.T @ frames.of_a).T @ (A.T @ frames.of_a), torch.eye(4, dtype=torch.float64))
    assert frames.for_b.norm() > 0.1
    assert not frames.for_a.any()
    assert not frames.of_b.any()
    assert torch.equal(frames.balancing_a, torch.eye(4, dtype=torch.float64))


@pytest.mark.parametrize("lost", [1, 4])
def test_where_a_is_singular_the_factors_exchange_their_roles(lost: int) -> None:
    A, B, _ = pair()
    A[:lost] = 0
    found, mirrored = of(A, B), of(B.T, A.T)
    assert found.valid
    assert torch.equal(found.for_a, mirrored.for_b)
    assert torch.equal(found.for_b, mirrored.for_a)
    assert torch.equal(found.of_a, mirrored.of_b)
    assert torch.equal(found.of_b, mirrored.of_a)
    assert torch.equal(found.balancing_a, mirrored.balancing_b)
    assert not torch.equal(found.for_a, found.for_b)


def test_a_product_of_lower_rank_has_bounded_steps() -> None:
    """B has two of four directions. A's steps are at most those that damping allows, |L V| / (damping sigma)."""
    A, B, g = pair()
    B = B[:, :2] @ torch.randn(2, 4, dtype=torch.float64, generator=g)
    frames = of(A, B, 1e-2)
    sigma = torch.linalg.svdvals(B @ A)[0]
    assert frames.valid
    assert frames.for_a.norm() <= A.norm() / (1e-2 * sigma)
    phi_b = B @ frames.of_b
    assert torch.linalg.matrix_rank(phi_b) == 2
    torch.testing.assert_close(phi_b[:, 2:].T @ phi_b[:, 2:], torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("change", ["both singular", "infinite", "not a number"])
def test_pairs_without_frames_are_told_apart_from_others(change: str) -> None:
    A, B, _ = pair()
    bad_a, bad_b = A.clone(), B.clone()
    if change == "both singular":
        bad_a[1], bad_b[:, 2] = bad_a[0], 0
    else:
        bad_a[0, 0] = torch.inf if change == "infinite" else torch.nan
    grams = torch.stack([A @ A.T, bad_a @ bad_a.T]), torch.stack([B.T @ B, bad_b.T @ bad_b])
    frames = frames_of(*grams, 1e-3)
    assert frames.valid.tolist() == [True, False]
    for own, alone in zip(frames[:6], of(A, B)[:6], strict=True):
        torch.testing.assert_close(own[0], alone, rtol=1e-9, atol=1e-12)
    assert not any(own[1].any() for own in frames[:4])
    assert torch.equal(frames.balancing_b[1], torch.eye(4, dtype=torch.float64))


def test_the_inverse_root_is_shifted_and_damped() -> None:
    g = torch.Generator().manual_seed(1)
    Q, values = orthonormal(3, 3, g), torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    V = Q * values @ Q.T
    shift = torch.tensor([0.5, 0.0], dtype=torch.float64)
    found = inverse_root(torch.stack([V, V]), shift, 0.1)
    for own, rho in zip(found, (0.5, 0.0), strict=True):
        torch.testing.assert_close(own, Q / (values + rho + 0.01 * 4).sqrt() @ Q.T)


def test_the_inverse_root_of_nothing_is_nothing() -> None:
    V = torch.zeros(3, 2, 2, dtype=torch.float64)
    V[1, 0, 0], V[2, 0, 1] = 4.0, torch.nan
    found = inverse_root(V, torch.zeros(3, dtype=torch.float64), 0.0)
    expected = torch.zeros(3, 2, 2, dtype=torch.float64)
    expected[1, 0, 0] = 0.5
    assert torch.equal(found, expected)


def test_the_loss_is_that_of_the_eigenvalue_that_fell_most() -> None:
    def diagonal(*values: float) -> Tensor:
        return torch.diag(torch.tensor(values, dtype=torch.float64))

    before = torch.stack([diagonal(3, 1, 0), diagonal(1, 2, 3), diagonal(1, 1, 1), diagonal(1, 1, torch.nan)])
    after = torch.stack([diagonal(2.5, 0.2, 0), diagonal(3, 1, 2), diagonal(2, 2, 2), diagonal(0, 0, 0)])
    assert spectral_loss(before, after).tolist() == pytest.approx([0.8, 0, 0, 0])
