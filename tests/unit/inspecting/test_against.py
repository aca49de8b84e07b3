"""A change against its weight, by dense matrices in float64."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.combining.changes import LowRank
from reflora_cli.inspecting import against
from reflora_cli.inspecting.against import against_weight, leading, row_change
from reflora_cli.inspecting.effects import Added, Effect, Replaced, Rescaled, ScaledColumns, ScaledRows
from reflora_cli.inspecting.spectra import triplets_of
from tests.unit.inspecting import dense
from tests.unit.inspecting.test_spectra import random_change

SHAPES = [(40, 24), (24, 40)]


def weight(out: int, inside: int) -> torch.Tensor:
    return torch.randn(out, inside, generator=torch.Generator().manual_seed(7))


def effects(out: int, inside: int) -> dict[str, tuple[Effect, torch.Tensor]]:
    """Every effect, with the weight that it makes, computed otherwise."""
    W, change = weight(out, inside).double(), random_change(out, inside, 3)
    V = W + change.dense()
    m, rows, columns = (torch.rand(size, dtype=torch.float64) + 0.5 for size in (out, out, inside))
    return {
        "added": (Added(change), V),
        "rescaled": (Rescaled(change, m), V / V.norm(dim=1)[:, None] * m[:, None]),
        "rows": (ScaledRows(rows), torch.diag(rows) @ W),
        "columns": (ScaledColumns(columns), W @ torch.diag(columns)),
        "replaced": (Replaced(V.float()), V.float().double()),
    }


@pytest.mark.parametrize("name", ["added", "rescaled", "rows", "columns", "replaced"])
@pytest.mark.parametrize(("out", "inside"), SHAPES)
def test_rows_change_as_in_the_dense_matrix(name: str, out: int, inside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against, "BLOCK", 7 * inside)  # several blocks, the last one smaller
    effect, expected = effects(out, inside)[name]
    W, changed = dense.matrix(weight(out, inside)), dense.matrix(expected)
    found = row_change(weight(out, inside), effect)
    assert found.frobenius == pytest.approx(np.linalg.norm(changed - W), rel=1e-12)
    assert found.weight == pytest.approx(np.linalg.norm(W), rel=1e-12)
    magnitude = dense.magnitude_change(W, changed)
    assert found.magnitude == pytest.approx(magnitude, rel=1e-10)
    assert found.relative_magnitude == pytest.approx(magnitude / np.linalg.norm(W, axis=1).mean(), rel=1e-10)
    assert found.direction == pytest.approx(dense.direction_change(W, changed), rel=1e-8, abs=1e-15)


def test_a_change_that_was_chosen_is_found() -> None:
    """Rows of norm 2 turned by 60 degrees and stretched to 3: magnitude 1, direction 1/2."""
    W = torch.zeros(6, 4)
    W[:, 0] = 2.0
    turned = torch.zeros(6, 4)
    turned[:, 0], turned[:, 1] = 1.5, 3 * 0.75**0.5
    found = row_change(W, Replaced(turned))
    assert (found.magnitude, found.direction) == (pytest.approx(1.0, rel=1e-6), pytest.approx(0.5, rel=1e-6))
    assert found.relative_magnitude == pytest.approx(0.5, rel=1e-6)


def test_rows_of_zeros_have_no_direction() -> None:
    W = torch.zeros(4, 3)
    found = row_change(W, Replaced(torch.ones(4, 3)))
    assert (found.direction, found.relative_magnitude) == (None, None)
    W[0] = 1.0
    assert row_change(W, Replaced(torch.ones(4, 3))).direction == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(("out", "inside"), SHAPES)
def test_subspaces_and_amplification_are_those_of_dense_matrices(out: int, inside: int) -> None:
    W, change = weight(out, inside), random_change(out, inside, 3)
    own, whole = dense.matrix(W), dense.matrix(change.dense())
    found = against_weight(W, triplets_of(change))
    assert found is not None
    assert found.spectral == pytest.approx(np.linalg.norm(own, 2), rel=1e-10)
    assert found.amplification == pytest.approx(dense.amplification(own, whole, 3), rel=1e-10)
    (U, V), (U_own, V_own) = dense.spaces(whole, 3), dense.spaces(own, 3)
    assert found.columns == pytest.approx(dense.phi(U_own, U), rel=1e-9)
    assert found.rows == pytest.approx(dense.phi(V_own, V), rel=1e-9)
    assert (found.random_columns, found.random_rows, found.whole) == (3 / out, 3 / inside, True)


def test_a_change_along_the_weight_itself() -> None:
    """dW made of W's leading triplets lies in them, and is amplified by its own factor."""
    W = weight(40, 24)
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    found = against_weight(W, triplets_of(LowRank(U[:, :3] * S[:3] * 0.25, Vh[:3])))
    assert found is not None
    assert (found.columns, found.rows) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found.amplification == pytest.approx(0.25)


def test_no_change_and_no_weight() -> None:
    change = random_change(40, 24, 3)
    assert against_weight(weight(40, 24), triplets_of(change.times(0.0))) is None
    found = against_weight(torch.zeros(40, 24), triplets_of(change))
    assert found is not None
    assert (found.amplification, found.spectral) == (None, 0.0)


@pytest.mark.parametrize(("out", "inside"), [(600, 400), (400, 600)])
def test_leading_triplets_of_a_large_weight(out: int, inside: int) -> None:
    """A spectrum that falls, as those of trained weights do."""
    draw = torch.Generator().manual_seed(3)
    least = min(out, inside)
    U, V = (torch.linalg.qr(torch.randn(size, least, generator=draw))[0] for size in (out, inside))
    W = (U * 0.9 ** torch.arange(least)) @ V.mT
    found, whole = leading(W, 8)
    assert not whole
    expected = dense.spaces(dense.matrix(W), 8)
    np.testing.assert_allclose(found.S, np.linalg.svd(dense.matrix(W), compute_uv=False)[:8], rtol=1e-5)
    assert dense.phi(expected[0], found.U.numpy()) == pytest.approx(1.0, abs=1e-4)
    assert dense.phi(expected[1], found.V.numpy()) == pytest.approx(1.0, abs=1e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_nothing_depends_on_how_the_change_is_factored(seed: int) -> None:
    change, draw = random_change(20, 12, 3, seed), torch.Generator().manual_seed(seed + 1)
    gauge = torch.randn(3, 3, generator=draw, dtype=torch.float64) + 3 * torch.eye(3, dtype=torch.float64)
    other = LowRank(change.B @ torch.linalg.inv(gauge), gauge @ change.A)
    W = weight(20, 12)
    one, two = (against_weight(W, triplets_of(own)) for own in (change, other))
    assert one is not None
    assert two is not None
    assert asdict(one) == pytest.approx(asdict(two), rel=1e-6)
    rows = [asdict(row_change(W, Rescaled(own, torch.ones(20, dtype=torch.float64)))) for own in (change, other)]
    assert rows[0] == pytest.approx(rows[1], rel=1e-6)
