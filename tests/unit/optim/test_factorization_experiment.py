"""Low-rank matrix factorization by gradient descent: the paper's first figure, in miniature.

0.5 ||Y - BA||^2 for a 100 x 100 Y of rank 5 with singular values from 21 to 28, from a small but non-zero B. Rank and
size of the paper's own experiment are not published; these reproduce its curves. RefLoRA owes its lead to the narrow
spectrum: its slowest direction shrinks at the rate eta sigma_min(Y), while ScaledGD's rate knows no spectrum.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.optim.references import metric_of

Directions = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(A, B, gA, gB) -> the directions that A and B descend."""


def lora(A: Tensor, B: Tensor, gA: Tensor, gB: Tensor) -> tuple[Tensor, Tensor]:
    return gA, gB


def scaled_gd(A: Tensor, B: Tensor, gA: Tensor, gB: Tensor) -> tuple[Tensor, Tensor]:
    """Tong, Ma, Chi 2020: GB^-1 gA and gB GA^-1."""
    return torch.linalg.solve(B.T @ B, gA), torch.linalg.solve(A @ A.T, gB, left=False)


def reflora(A: Tensor, B: Tensor, gA: Tensor, gB: Tensor) -> tuple[Tensor, Tensor]:
    S, S_inverse, _ = metric_of(A, B, damping=1e-3)
    return S_inverse @ gA, gB @ S


def reflora_s(A: Tensor, B: Tensor, gA: Tensor, gB: Tensor) -> tuple[Tensor, Tensor]:
    sigma = B.norm() / A.norm()
    return gA / sigma, gB * sigma


def losses(directions: Directions, rate: float, seed: int = 0) -> list[float]:
    """The loss before and after each of 100 steps."""
    generator = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape))

    U, V = torch.linalg.qr(normal(100, 5))[0], torch.linalg.qr(normal(100, 5))[0]
    Y = U * torch.linspace(21, 28, 5, dtype=torch.float64) @ V.T
    A, B = normal(5, 100), 0.1 * normal(100, 5)
    curve = []
    for _ in range(101):
        residual = B @ A - Y
        curve.append(0.5 * residual.square().sum().item())
        dA, dB = directions(A, B, B.T @ residual, residual @ A.T)
        A, B = A - rate * dA, B - rate * dB
    return curve


def first_below(curve: list[float], bound: float) -> int:
    return next(t for t, loss in enumerate(curve) if loss < bound)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("directions", [reflora, reflora_s])
def test_reflora_converges_at_both_rates(directions: Directions, seed: int) -> None:
    """Measured for the full matrix: 42 to 63 steps at 0.01 and 15 to 21 at 0.03."""
    assert first_below(losses(directions, 0.01, seed), 1e-3) <= 70
    assert first_below(losses(directions, 0.03, seed), 1e-3) <= 25


def test_scaled_gradient_descent_is_on_its_way() -> None:
    assert 430 < losses(scaled_gd, 0.01)[-1] < 620
    assert 1 < losses(scaled_gd, 0.03)[-1] < 10


def test_lora_is_slow_at_one_rate_and_diverges_at_the_other() -> None:
    assert 6 < losses(lora, 0.01)[-1] < 100
    assert max(losses(lora, 0.03)[:11]) > 1e6
