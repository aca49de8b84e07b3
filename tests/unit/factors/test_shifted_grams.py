"""Inverses of Grams plus a multiple of the identity, against general inverses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from reflora_cli.factors.shifted_grams import shifted_inverse_grams
from tests.unit.optim.references import conditioned


def factors(count: int = 4) -> tuple[Tensor, Tensor]:
    """A [n, 3, 10] and B [n, 12, 3] in float64."""
    g = torch.Generator().manual_seed(0)
    A = torch.stack([conditioned(3, 10, 10.0, g) for _ in range(count)])
    return A, torch.stack([conditioned(12, 3, 100.0, g) for _ in range(count)])


@pytest.mark.parametrize("d", [1e-12, 1e-6, 1e-2, 100.0])
def test_they_are_the_inverses_of_the_sums(d: float) -> None:
    A, B = factors()
    GA, GB, eye = A @ A.mT, B.mT @ B, torch.eye(3, dtype=torch.float64)
    found = shifted_inverse_grams(GA, GB, d)
    assert found.valid.all()
    torch.testing.assert_close(found.A, torch.linalg.inv(GA + d * eye), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.B, torch.linalg.inv(GB + d * eye), rtol=1e-8, atol=1e-8)


def test_at_zero_they_exist_and_where_a_factor_is_not_finite_they_do_not() -> None:
    A, B = factors()
    B[1] = 0
    B[2, 0, 0] = torch.nan
    A[3, 0, 0] = torch.inf
    found = shifted_inverse_grams(A @ A.mT, B.mT @ B, 1e-6)
    assert found.valid.tolist() == [True, True, False, False]
    eye = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(found.B[1], 1e6 * eye, rtol=1e-12, atol=0)
    assert all(torch.equal(own[n], eye) for own in (found.A, found.B) for n in (2, 3))


def test_a_sum_whose_pivot_is_not_trusted_has_none() -> None:
    """B has columns that are 1e-4 apart: without a large d the least pivot of its Gram is some 1e-8."""
    A, B = factors(2)
    B[0, :, 1] = B[0, :, 0] * (1 + 1e-4 * torch.linspace(-1, 1, 12, dtype=torch.float64))
    Grams = A @ A.mT, B.mT @ B
    assert shifted_inverse_grams(*Grams, 1e-12, least_pivot=1e-5).valid.tolist() == [False, True]
    assert shifted_inverse_grams(*Grams, 1e-2, least_pivot=1e-5).valid.tolist() == [True, True]
