"""Singular values through the cores of factors are those of the dense product, however it is factored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.combining.changes import LowRank
from reflora_cli.inspecting.spectra import balance, spectrum, triplets_of
from tests.unit.inspecting import dense

SHAPES = [(40, 24, 5), (24, 40, 5), (30, 30, 1), (6, 40, 8), (40, 6, 8)]


def random_change(out: int, inside: int, rank: int, seed: int = 0) -> LowRank:
    draw = torch.Generator().manual_seed(seed)
    B, A = torch.randn(out, rank, generator=draw), torch.randn(rank, inside, generator=draw)
    return LowRank(B.double(), A.double())


@pytest.mark.parametrize(("out", "inside", "rank"), SHAPES)
def test_every_number_is_that_of_the_dense_matrix(out: int, inside: int, rank: int) -> None:
    change = random_change(out, inside, rank)
    whole, least = dense.matrix(change.dense()), min(out, inside, rank)
    sigma = np.linalg.svd(whole, compute_uv=False)[:least]
    found = spectrum(triplets_of(change), rank)
    assert found.rank == least
    np.testing.assert_allclose(found.singular_values[:least], sigma, rtol=1e-10)
    assert found.singular_values[least:] == (0.0,) * (rank - least)
    assert found.frobenius == pytest.approx(np.linalg.norm(whole), rel=1e-12)
    assert found.spectral == pytest.approx(np.linalg.norm(whole, 2), rel=1e-12)
    assert found.effective_rank == pytest.approx(dense.entropy_rank(sigma), rel=1e-10)
    assert found.stable_rank == pytest.approx(dense.stable_rank(whole), rel=1e-10)
    expected = None if least < rank else pytest.approx(sigma[0] / sigma[-1], rel=1e-8)
    assert found.condition == expected


def test_a_spectrum_that_was_chosen_is_found() -> None:
    """Equal singular values have an effective and a stable rank of their number."""
    U, V = (torch.linalg.qr(torch.randn(size, 4, dtype=torch.float64))[0] for size in (20, 12))
    found = spectrum(triplets_of(LowRank(U * torch.tensor([4.0, 2.0, 1.0, 0.5]), V.mT)), 4)
    np.testing.assert_allclose(found.singular_values, (4.0, 2.0, 1.0, 0.5), rtol=1e-12)
    assert found.condition == pytest.approx(8.0, rel=1e-12)
    equal = spectrum(triplets_of(LowRank(U * 3.0, V.mT)), 4)
    assert (equal.effective_rank, equal.stable_rank) == (pytest.approx(4.0), pytest.approx(4.0))
    one = spectrum(triplets_of(LowRank(U[:, :1] * 3.0, V.mT[:1])), 1)
    assert (one.effective_rank, one.condition) == (pytest.approx(1.0), pytest.approx(1.0))


def test_a_product_of_lower_rank_has_no_condition() -> None:
    change = random_change(20, 12, 4)
    change.B[:, 3] = change.B[:, 0]
    found = spectrum(triplets_of(change), 4)
    assert (found.rank, found.singular_values[3], found.condition) == (3, 0.0, None)
    sigma = np.linalg.svd(dense.matrix(change.dense()), compute_uv=False)[:3]
    assert found.effective_rank == pytest.approx(dense.entropy_rank(sigma), rel=1e-10)


@pytest.mark.parametrize("rank", [4, 0])
def test_no_change_at_all_has_no_ranks(rank: int) -> None:
    change = LowRank(torch.zeros(20, rank, dtype=torch.float64), torch.ones(rank, 12, dtype=torch.float64))
    found = spectrum(triplets_of(change), rank)
    assert found.singular_values == (0.0,) * rank
    assert (found.frobenius, found.spectral, found.rank) == (0.0, 0.0, 0)
    assert (found.effective_rank, found.stable_rank, found.condition) == (None, None, None)


def test_factors_that_cancel_are_no_change() -> None:
    """As of a start that took its factors out of the base, before the first step."""
    own = random_change(40, 24, 5)
    cancelled = LowRank(torch.cat([own.B, -own.B], dim=1), torch.cat([own.A, own.A]))
    assert triplets_of(cancelled).rank == 0


def test_balance_is_that_of_the_gram_matrices() -> None:
    pair = random_change(20, 12, 4)
    A, B, found = dense.matrix(pair.A), dense.matrix(pair.B), balance(pair)
    assert (found.norm_a, found.norm_b) == (pytest.approx(np.linalg.norm(A)), pytest.approx(np.linalg.norm(B)))
    assert found.ratio == pytest.approx(np.linalg.norm(B) / np.linalg.norm(A))
    gram_a, gram_b = A @ A.T, B.T @ B
    expected = np.linalg.norm(gram_a - gram_b) / (np.linalg.norm(gram_a) + np.linalg.norm(gram_b))
    assert found.imbalance == pytest.approx(expected)


def test_balance_at_its_limits() -> None:
    pair = random_change(20, 12, 4)
    zero = LowRank(torch.zeros_like(pair.B), pair.A)
    assert (balance(zero).ratio, balance(zero).imbalance) == (0.0, pytest.approx(1.0))
    nothing = LowRank(zero.B, torch.zeros_like(pair.A))
    assert (balance(nothing).ratio, balance(nothing).imbalance) == (None, None)
    found = triplets_of(pair)
    halves = LowRank(found.U * found.S.sqrt(), (found.V * found.S.sqrt()).mT)
    assert balance(halves).imbalance == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), stretch=st.floats(-2, 2))
def test_no_number_of_the_product_depends_on_how_it_is_factored(seed: int, stretch: float) -> None:
    change = random_change(18, 11, 4, seed)
    draw = torch.Generator().manual_seed(seed + 1)
    frame = torch.linalg.qr(torch.randn(4, 4, generator=draw, dtype=torch.float64))[0]
    gauge = frame * 10.0 ** (stretch * torch.linspace(-1, 1, 4, dtype=torch.float64))
    other = LowRank(change.B @ torch.linalg.inv(gauge), gauge @ change.A)
    one, two = (spectrum(triplets_of(own), 4) for own in (change, other))
    np.testing.assert_allclose(one.singular_values, two.singular_values, rtol=1e-7)
    assert one.effective_rank == pytest.approx(two.effective_rank, rel=1e-7)
    assert one.stable_rank == pytest.approx(two.stable_rank, rel=1e-7)
