"""Inverse square roots by products alone, against eigendecompositions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from reflora_cli.factors.newton_schulz import SQUARINGS, damped_inverse_root, factors, largest_eigenvalue
from tests.unit.optim.references import orthonormal


def semidefinite(values: list[float], seed: int) -> Tensor:
    """[1, r, r] with these eigenvalues."""
    r = len(values)
    Q = orthonormal(r, r, torch.Generator().manual_seed(seed))
    return (Q * torch.tensor(values, dtype=torch.float64) @ Q.T)[None]


spectra = st.lists(st.floats(0, 1), min_size=1, max_size=12).filter(lambda values: max(values) > 1e-3)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(spectra, st.sampled_from([1e-4, 1e-3, 1e-2, 0.3]), st.integers(0, 2**31))
def test_it_is_the_inverse_root_of_the_damped_matrix(values: list[float], damping: float, seed: int) -> None:
    """Whatever the spectrum, zeros and repeated values included; the largest eigenvalue is known to 0.2%."""
    H = semidefinite(values, seed)
    found = damped_inverse_root(H, damping)
    right = torch.linalg.inv(H[0] + damping**2 * largest_eigenvalue(H) * torch.eye(len(values), dtype=torch.float64))
    assert (found[0] @ found[0] - right).norm() < 1e-5 * right.norm()
    assert torch.equal(found, found.mT)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(spectra, st.floats(1e-150, 1e150), st.integers(0, 2**31))
def test_the_bound_is_above_the_largest_eigenvalue_and_close(values: list[float], size: float, seed: int) -> None:
    bound = float(largest_eigenvalue(semidefinite(values, seed) * size)) / size
    assert 1 - 1e-9 < bound / max(values) < len(values) ** (1 / 2 ** (SQUARINGS + 1)) + 1e-9


@pytest.mark.parametrize(("damping", "most"), [(1e-4, 15), (1e-3, 12), (1e-2, 10), (1e-1, 7)])
def test_the_iterations_are_few_and_reach_one(damping: float, most: int) -> None:
    """Every eigenvalue from the damping's to 1, mapped as the iteration maps it."""
    least = damping**2 / (1 + damping**2)
    p = torch.logspace(0, torch.tensor(least).log10().item(), 1000, dtype=torch.float64)
    planned = list(factors(least))
    assert len(planned) <= most
    for factor in planned:
        assert p.max() * factor < 3
        p = factor * p * (3 - factor * p) ** 2 / 4
    assert (p - 1).abs().max() < 1e-14


def test_nothing_comes_of_nothing() -> None:
    """A zero matrix has no inverse root, and the others of its stack keep theirs."""
    H = torch.cat([semidefinite([1.0, 0.5], 0), torch.zeros(1, 2, 2, dtype=torch.float64)])
    found = damped_inverse_root(H, 1e-2)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().any()
