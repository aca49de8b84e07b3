"""How alike two changes are, by dense matrices in float64 and at the limits."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.combining.changes import LowRank
from reflora_cli.inspecting.spectra import triplets_of
from reflora_cli.inspecting.subspaces import Alike, alike, similarity
from tests.unit.inspecting import dense
from tests.unit.inspecting.test_spectra import random_change


def compared(one: LowRank, other: LowRank) -> Alike:
    return alike("module", (one, other), (triplets_of(one), triplets_of(other)))


@pytest.mark.parametrize(("first", "second"), [(3, 5), (5, 3), (4, 4)])
def test_every_number_is_that_of_dense_matrices(first: int, second: int) -> None:
    one, other = random_change(30, 20, first, 1), random_change(30, 20, second, 2)
    found, (A, B) = compared(one, other), (dense.matrix(own.dense()) for own in (one, other))
    norms = np.linalg.norm(A), np.linalg.norm(B)
    assert found.cosine == pytest.approx((A * B).sum() / norms[0] / norms[1], rel=1e-9)
    assert found.distance == pytest.approx(np.linalg.norm(A - B) / np.hypot(*norms), rel=1e-12)
    for own, side, size in ((found.columns, 0, 30), (found.rows, 1, 20)):
        assert own is not None
        spaces = dense.spaces(A, first)[side], dense.spaces(B, second)[side]
        expected = [
            [dense.phi(spaces[0][:, : i + 1], spaces[1][:, : j + 1]) for j in range(second)] for i in range(first)
        ]
        np.testing.assert_allclose(own.grid, expected, rtol=1e-8)
        assert own.phi == own.grid[-1][-1]
        angles = np.sort(np.rad2deg(scipy.linalg.subspace_angles(*spaces)))
        np.testing.assert_allclose(own.degrees, angles, rtol=1e-9)
        assert own.random == max(first, second) / size


def test_equal_changes_are_alike() -> None:
    one = random_change(30, 20, 4)
    found = compared(one, one)
    assert found.cosine == pytest.approx(1.0, abs=1e-14)
    assert found.distance == pytest.approx(0.0, abs=1e-12)
    for own in (found.columns, found.rows):
        assert own is not None
        assert own.phi == pytest.approx(1.0, abs=1e-14)
        assert max(own.degrees) < 1e-5


def test_opposite_changes_have_the_same_subspaces() -> None:
    one = random_change(30, 20, 4)
    found = compared(one, one.times(-1.0))
    assert (found.cosine, found.distance) == (pytest.approx(-1.0), pytest.approx(2**0.5))
    assert found.columns is not None
    assert found.columns.phi == pytest.approx(1.0)


def test_orthogonal_changes_are_not_alike() -> None:
    frame = torch.linalg.qr(torch.randn(30, 8, dtype=torch.float64))[0]
    inputs = torch.linalg.qr(torch.randn(20, 8, dtype=torch.float64))[0].mT
    found = compared(LowRank(frame[:, :4], inputs[:4]), LowRank(frame[:, 4:], inputs[4:]))
    assert (found.cosine, found.distance) == (pytest.approx(0.0, abs=1e-14), pytest.approx(1.0))
    for own in (found.columns, found.rows):
        assert own is not None
        assert own.phi == pytest.approx(0.0, abs=1e-14)
        assert min(own.degrees) == pytest.approx(90.0)


def test_no_change_has_no_direction() -> None:
    one = random_change(30, 20, 4)
    found = compared(one, one.times(0.0))
    assert (found.cosine, found.distance, found.columns, found.rows) == (None, pytest.approx(1.0), None, None)
    assert compared(one.times(0.0), one.times(0.0)).distance is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), first=st.integers(1, 6), second=st.integers(1, 6))
def test_phi_lies_between_0_and_1(seed: int, first: int, second: int) -> None:
    """And it does not depend on the bases of the subspaces, nor on which is the first."""
    draw = torch.Generator().manual_seed(seed)
    one, other = (
        torch.linalg.qr(torch.randn(9, size, generator=draw, dtype=torch.float64))[0] for size in (first, second)
    )
    turn = torch.linalg.qr(torch.randn(first, first, generator=draw, dtype=torch.float64))[0]
    found = similarity(one, other)
    assert 0 <= found <= 1
    assert found == pytest.approx(similarity(other, one @ turn), abs=1e-12)
    wide = random_change(12, 9, 6, seed), random_change(12, 9, second, seed + 1)
    grid = compared(*wide).columns
    assert grid is not None
    assert all(0 <= value <= 1 for row in grid.grid for value in row)
