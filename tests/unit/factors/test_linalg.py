"""The balancing matrix S: what defines it, what it minimizes, what leaves it as it is, and its edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch import Tensor

from reflora_cli.factors import linalg
from reflora_cli.factors.linalg import Metric, Way, balancing_metric, by_products, one_sided, two_sided
from tests.unit.optim.references import (
    conditioned,
    exact_metric,
    metric_by_svd,
    metric_of,
    orthonormal,
    paper_metric,
)

seeds = st.integers(0, 2**31)
dampings = st.sampled_from([0.0, 1e-4, 1e-3, 1e-2])
some_draws = settings(max_examples=20, deadline=None, derandomize=True)


def draw(seed: int, out: int = 20, rank: int = 5, inputs: int = 14) -> tuple[Tensor, Tensor, torch.Generator]:
    """A [rank, inputs] and B [out, rank] in float64, of unlike size, with modest condition numbers."""
    generator = torch.Generator().manual_seed(seed)
    A = conditioned(rank, inputs, 5.0, generator)
    B = 0.05 * conditioned(out, rank, 50.0, generator)
    return A, B, generator


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected).norm() / expected.norm()).item()


def nuclear_norm(matrix: Tensor) -> float:
    return torch.linalg.svdvals(matrix).sum().item()


@given(seeds)
@some_draws
def test_it_solves_its_equation_and_is_symmetric_positive_definite(seed: int) -> None:
    """S GA S = GB, and S^-1 is its inverse."""
    A, B, _ = draw(seed)
    S, S_inverse, valid = metric_of(A, B)
    assert valid
    assert relative(S @ (A @ A.T) @ S, B.T @ B) < 1e-10
    assert relative(S @ S_inverse, torch.eye(5, dtype=torch.float64)) < 1e-10
    assert relative(S, S.T) < 1e-14
    assert relative(S_inverse, S_inverse.T) < 1e-14
    assert torch.linalg.eigvalsh(S).min() > 0


@given(seeds)
@some_draws
def test_it_balances_the_factors_and_keeps_their_product(seed: int) -> None:
    """With P P^T = S the factors P^T A and B P^-T have equal Grams and the product BA."""
    A, B, _ = draw(seed)
    P = torch.linalg.cholesky(metric_of(A, B).S)
    A_balanced, B_balanced = P.T @ A, torch.linalg.solve_triangular(P, B.T, upper=False).T
    assert relative(A_balanced @ A_balanced.T, B_balanced.T @ B_balanced) < 1e-10
    assert relative(B_balanced @ A_balanced, B @ A) < 1e-13


@given(seeds)
@some_draws
def test_it_is_the_paper_s_closed_form(seed: int) -> None:
    """The Cholesky form and the paper's form with its three square roots are the same matrix."""
    A, B, _ = draw(seed)
    metric = metric_of(A, B)
    S, S_inverse = paper_metric(A, B)
    assert relative(metric.S, S) < 1e-9
    assert relative(metric.S_inverse, S_inverse) < 1e-9


@given(seeds)
@settings(max_examples=5, deadline=None, derandomize=True)
def test_it_gives_the_moduli_of_the_product(seed: int) -> None:
    """A^T S A = ((BA)^T BA)^1/2, so tr(S GA) = tr(S^-1 GB) is the nuclear norm of BA."""
    A, B, _ = draw(seed)
    S, S_inverse, _ = metric_of(A, B)
    root = torch.from_numpy(sqrtm(((B @ A).T @ B @ A).numpy()).real)
    assert relative(A.T @ S @ A, root) < 1e-6  # the dense root knows the 9 null directions to 1e-8 only
    norm = nuclear_norm(B @ A)
    assert torch.trace(S @ A @ A.T).item() == pytest.approx(norm, rel=1e-12)
    assert torch.trace(S_inverse @ B.T @ B).item() == pytest.approx(norm, rel=1e-10)


@given(seeds)
@some_draws
def test_nothing_beats_it(seed: int) -> None:
    """S minimizes tr(S GA) + tr(S^-1 GB), the sum of squares of the refactored factors: 200 congruent matrices fail."""
    A, B, generator = draw(seed)
    S = metric_of(A, B).S
    steps = 0.3 * torch.randn(200, 5, 5, dtype=torch.float64, generator=generator)
    C = torch.linalg.matrix_exp(steps)
    others = C @ S @ C.mT
    costs = (others * (A @ A.T)).sum((-2, -1)) + (torch.linalg.inv(others) * (B.T @ B)).sum((-2, -1))
    assert costs.min() > 2 * nuclear_norm(B @ A)


def moved_product(A: Tensor, B: Tensor, G: Tensor, metric: tuple[Tensor, Tensor]) -> Tensor:
    """BA after a step of preconditioned gradient descent down the weight gradient G, minus BA."""
    rate, (S, S_inverse) = 1e-2, metric
    return (B - rate * G @ A.T @ S) @ (A - rate * S_inverse @ B.T @ G) - B @ A


@pytest.mark.parametrize(("condition", "tolerance"), [(1e2, 1e-10), (1e4, 1e-7)])
@given(seeds, dampings)
@some_draws
def test_a_step_does_not_depend_on_how_the_product_is_factored(
    condition: float, tolerance: float, seed: int, damping: float
) -> None:
    """(A, B) and (T^-1 A, B T) move BA by the same matrix, second order and damping included.

    A Gram matrix squares T's condition number: the changes agree to condition^2 times float64's precision, measured
    1e-12 and 1e-8. Plain gradient descent moves BA hundreds of times as far from the other factors.
    """
    A, B, generator = draw(seed)
    T = conditioned(5, 5, condition, generator)
    G = torch.randn(20, 14, dtype=torch.float64, generator=generator)
    A_other, B_other = torch.linalg.solve(T, A), B @ T
    change = moved_product(A, B, G, metric_of(A, B, damping)[:2])
    change_other = moved_product(A_other, B_other, G, metric_of(A_other, B_other, damping)[:2])
    assert relative(change_other, change) < tolerance
    identity = torch.eye(5, dtype=torch.float64)
    plain = moved_product(A, B, G, (identity, identity))
    plain_other = moved_product(A_other, B_other, G, (identity, identity))
    assert relative(plain_other, plain) > 100


@given(seeds, dampings)
@some_draws
def test_many_pairs_at_once_are_as_one_by_one(seed: int, damping: float) -> None:
    """A stack of pairs, a zero and a NaN among them, gives what each pair gives alone."""
    draws = [draw(seed + n)[:2] for n in range(4)]
    draws.insert(1, (draws[0][0], torch.zeros_like(draws[0][1])))
    draws.insert(3, (draws[0][0] * torch.nan, draws[0][1]))
    together = balancing_metric(
        torch.stack([A @ A.T for A, _ in draws]), torch.stack([B.T @ B for _, B in draws]), damping
    )
    assert together.valid.tolist() == [True, False, True, False, True, True]
    for n, (A, B) in enumerate(draws):
        alone = metric_of(A, B, damping)
        torch.testing.assert_close(together.S[n], alone.S, rtol=1e-9, atol=0)
        torch.testing.assert_close(together.S_inverse[n], alone.S_inverse, rtol=1e-9, atol=0)


@pytest.mark.parametrize("damping", [0.0, 1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("rank", [1, 8, 64])
def test_it_agrees_with_a_singular_value_decomposition_of_the_factors(rank: int, damping: float) -> None:
    """At cond(BA) = 1e3 the Gram matrices lose nothing that matters."""
    generator = torch.Generator().manual_seed(rank)
    A, B = conditioned(rank, 80, 10.0, generator), conditioned(100, rank, 100.0, generator)
    metric = metric_of(A, B, damping)
    S, S_inverse = metric_by_svd(A, B, damping)
    assert relative(metric.S, S) < 1e-11
    assert relative(metric.S_inverse, S_inverse) < 1e-8


@pytest.mark.parametrize("way", [one_sided, two_sided, by_products])
@pytest.mark.parametrize("damping", [1e-3, 1e-2])
@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e7])
def test_every_way_gives_the_same(way: Way, damping: float, rank: int, condition: float) -> None:
    """For factors of any size, also where BA has no full rank in float64's eyes; in a stack, each as alone."""
    generator = torch.Generator().manual_seed(rank)
    pairs = [(conditioned(rank, 80, 3.0, generator), size * conditioned(100, rank, condition, generator))
             for size in (1e-6, 1.0, 1e6)]  # fmt: skip
    La = torch.stack([torch.linalg.qr(A.T, mode="r")[1].T for A, _ in pairs])
    Lb = torch.stack([torch.linalg.qr(B, mode="r")[1].T for _, B in pairs])
    S, S_inverse = way(La, Lb, damping)
    for n, (A, B) in enumerate(pairs):
        right, right_inverse = metric_by_svd(A, B, damping)
        assert relative(S[n], right) < 1e-8
        assert relative(S_inverse[n], right_inverse) < 1e-8


def ill_conditioned(condition: float, seed: int = 0) -> tuple[Tensor, ...]:
    """A, B, gA, gB in float32 at rank 16 with cond(BA) near `condition`, all of it in B."""
    generator = torch.Generator().manual_seed(seed)
    A = orthonormal(64, 16, generator).T * 3
    B = conditioned(96, 16, condition, generator)
    G = torch.randn(96, 64, dtype=torch.float64, generator=generator)
    return A.float(), B.float(), (B.T @ G).float(), (G @ A.T).float()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("damping", "tolerance"), [(0.0, 2e-6), (1e-4, 1e-8), (1e-3, 1e-9)])
def test_float32_factors_of_condition_1e5_are_no_problem(damping: float, tolerance: float, seed: int) -> None:
    """The preconditioned gradients are finite and right where the two-eigendecomposition formula gives NaN.

    Measured errors: 2e-7 undamped, 6e-10 with 1e-4, 1e-11 with 1e-3.
    """
    A, B, gA, gB = ill_conditioned(1e5, seed)
    metric = metric_of(A, B, damping)
    S, S_inverse = metric_by_svd(A, B, damping)
    assert relative(metric.S_inverse @ gA.double(), S_inverse @ gA.double()) < tolerance
    assert relative(gB.double() @ metric.S, gB.double() @ S) < tolerance
    S_naive, S_inverse_naive = paper_metric(A, B)
    assert (S_inverse_naive @ gA).isnan().any()
    assert (gB @ S_naive).isnan().any()


@pytest.mark.parametrize("damping", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("missing", [1, 3])
def test_a_product_of_lower_rank_is_damped(missing: int, damping: float) -> None:
    """With zero columns in B, S is finite and leaves them zero; the rest is as in the smaller pair, up to damping."""
    A, B, generator = draw(0)
    B[:, :missing] = 0
    gA = B.T @ torch.randn(20, 14, dtype=torch.float64, generator=generator)
    S, S_inverse, valid = metric_of(A, B, damping)
    assert valid
    assert torch.equal(S[:missing], torch.zeros_like(S[:missing]))
    assert (S_inverse @ gA).isfinite().all()
    # Exact damped inverse of a singular product, through a singular value decomposition of BA itself.
    sigma, Vh = torch.linalg.svd(B @ A)[1:]
    sigma, Vh = sigma[: 5 - missing], Vh[: 5 - missing]
    damped = (sigma**2 + (damping * sigma[0]) ** 2).sqrt()
    assert relative(A.T @ S @ A, Vh.T * (sigma**2 / damped) @ Vh) < 1e-10


@pytest.mark.parametrize("damping", [0.0, 1e-8, 1e-5])
@pytest.mark.parametrize("rank", [2, 8])
@pytest.mark.parametrize("condition", [1e2, 1e4, 1e5, 1e7, 1e8, 1e9])
def test_with_little_damping_s_is_right_or_there_is_none(condition: float, rank: int, damping: float) -> None:
    """Against 60 decimal digits. Without a least pivot, S^-1 gA would be wrong by 1e-3 at cond(B) = 1e7 and by 40% at
    1e9; damping of 1e-5 is enough everywhere."""
    generator = torch.Generator().manual_seed(1)
    A, B = conditioned(rank, 24, 3.0, generator), conditioned(30, rank, condition, generator)
    gA = B.T @ torch.randn(30, 24, dtype=torch.float64, generator=generator)
    gB = torch.randn(30, 24, dtype=torch.float64, generator=generator) @ A.T
    found, (S, S_inverse) = metric_of(A, B, damping), exact_metric(A, B, damping)
    assert found.valid == (condition <= 1e5 or damping == 1e-5)
    if found.valid:
        assert relative(found.S_inverse @ gA, S_inverse @ gA) < 2e-5
        assert relative(gB @ found.S, gB @ S) < 1e-8


@pytest.mark.parametrize("damping", [0.0, 1e-12])
def test_a_product_of_lower_rank_needs_damping(damping: float) -> None:
    """Of lower rank for a zero column, for two that are equal, or for a row of A that is the sum of others."""
    for seed in range(20):
        A, B, _ = draw(seed)
        zero, equal, summed = B.clone(), B.clone(), A.clone()
        zero[:, :2] = 0
        equal[:, 0] = equal[:, 1]
        summed[2] = summed[0] + summed[1]
        for pair in ((A, zero), (A, equal), (summed, B)):
            assert not metric_of(*pair, damping).valid
            assert metric_of(*pair, 1e-4).valid


def test_dependent_columns_are_damped_in_any_basis() -> None:
    """A B of rank 4 without any zero column is numerically singular and still valid."""
    A, B, generator = draw(1)
    B[:, 0] = 0
    T = orthonormal(5, 5, generator)
    before, after = metric_of(A, B, 1e-3), metric_of(T.T @ A, B @ T, 1e-3)
    assert after.valid
    assert relative(T @ after.S @ T.T, before.S) < 1e-6
    assert relative(T @ after.S_inverse @ T.T, before.S_inverse) < 1e-6


def bad_pairs() -> dict[str, tuple[Tensor, Tensor]]:
    A, B, _ = draw(0)
    nan, inf = torch.tensor([torch.nan, torch.inf], dtype=torch.float64)
    return {
        "B is zero": (A, 0 * B),
        "A is zero": (0 * A, B),
        "both are zero": (0 * A, 0 * B),
        "A has a NaN": (A.index_put((torch.tensor(0), torch.tensor(0)), nan), B),
        "B has an infinity": (A, B.index_put((torch.tensor(0), torch.tensor(0)), inf)),
        "squares overflow": (A * 1e200, B),
        "the product's squares overflow": (A * 1e100, B * 1e100),
    }


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("case", bad_pairs())
def test_a_pair_without_a_metric_has_the_identity(case: str, damping: float) -> None:
    """So that it takes a plain step."""
    metric = metric_of(*bad_pairs()[case], damping)
    identity = torch.eye(5, dtype=torch.float64)
    assert_same(metric, Metric(identity, identity, torch.tensor(False)))


def assert_same(found: Metric, expected: Metric) -> None:
    for part, other in zip(found, expected, strict=True):
        assert torch.equal(part, other)


@pytest.mark.parametrize("size", [1e-10, 1e10])
def test_the_size_of_the_factors_does_not_matter(size: float) -> None:
    """Scaling B by c scales S by c and S^-1 by 1/c."""
    A, B, _ = draw(0)
    plain, scaled = metric_of(A, B, 1e-3), metric_of(A, B * size, 1e-3)
    torch.testing.assert_close(scaled.S / size, plain.S, rtol=1e-10, atol=0)
    torch.testing.assert_close(scaled.S_inverse * size, plain.S_inverse, rtol=1e-10, atol=0)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("size", [1e-38, 1e-20, 1e20, 1e38])
def test_factors_of_sizes_too_far_apart_have_no_metric(size: float, damping: float) -> None:
    """Gradients multiplied by it, or Adam's squares of them, would not be finite in float32; single rows may be turned
    off by damping instead."""
    A, B, _ = draw(0)
    assert not metric_of(A, B * size, damping).valid
    A[0] *= size
    B[:, 1] *= size
    S, S_inverse, _ = metric_of(A, B, damping)
    assert max(S.abs().max(), S_inverse.abs().max()) <= linalg.LARGEST


def test_zero_pairs_are_no_problem() -> None:
    empty = torch.zeros(0, 3, 3, dtype=torch.float64)
    assert balancing_metric(empty, empty, 1e-3).S.shape == (0, 3, 3)
