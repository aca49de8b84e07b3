"""Sylvester equations: the residual, equality with a Kronecker system, and what has no solution."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.factors.sylvester import solve_sylvester


def grams(n: int, r: int, seed: int) -> Tensor:
    F = torch.randn(n, r, r + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F @ F.mT


@pytest.mark.parametrize("r", [1, 3, 8])
def test_equals_the_solution_of_the_kronecker_system(r: int) -> None:
    P, Q = grams(4, r, 0), grams(4, r, 1) * 1e4
    C = torch.randn(4, r, r, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    X = solve_sylvester(P, Q, C)
    torch.testing.assert_close(P @ X + X @ Q, C, rtol=1e-9, atol=1e-10)
    eye = torch.eye(r, dtype=torch.float64)
    for own, p, q, c in zip(X, P, Q, C, strict=True):
        system = torch.kron(p, eye) + torch.kron(eye, q)  # of the rows of X one after the other
        torch.testing.assert_close(own.flatten(), torch.linalg.solve(system, c.flatten()), rtol=1e-8, atol=1e-12)


def test_components_without_a_solution_are_zero() -> None:
    P, Q = torch.diag(torch.tensor([2.0, 0.0]).double())[None], torch.diag(torch.tensor([0.0, 1.0]).double())[None]
    found = solve_sylvester(P, Q, torch.ones(1, 2, 2, dtype=torch.float64))[0]
    torch.testing.assert_close(found, torch.tensor([[1 / 2, 1 / 3], [0.0, 1.0]], dtype=torch.float64))


def test_what_is_not_finite_leaves_its_neighbours_alone() -> None:
    P, Q, C = grams(3, 3, 0), grams(3, 3, 1), grams(3, 3, 2)
    expected = solve_sylvester(P, Q, C)
    for bad in (P, Q, C):
        bad[1, 0, 0] = torch.nan
        found = solve_sylvester(P, Q, C)
        bad[1] = torch.eye(3)
        assert torch.equal(found[1], torch.zeros(3, 3, dtype=torch.float64))
        torch.testing.assert_close(found[[0, 2]], expected[[0, 2]], rtol=1e-12, atol=1e-12)
