"""The matrices by which gradients of a pair of factors are preconditioned, for many pairs at once: the S that balances
the factors, or the inverses of their Gram matrices.

For GA = A A^T and GB = B^T B, S is the symmetric positive definite root of `S GA S = GB` (Zhang, Li, Giannakis 2025,
arXiv 2505.18877): of all factorizations (P^T A, B P^-T) of BA, that with P P^T = S has the least ||A||^2 + ||B||^2.
The paper writes S = GA^-1/2 (GA^1/2 GB GA^1/2)^1/2 GA^-1/2. With Cholesky factors GA = La La^T, GB = Lb Lb^T and the
singular value decomposition Lb^T La = U diag(sigma) V^T, whose sigma are the singular values of BA, the same matrix is

    S = (Lb U) diag(1/sigma) (Lb U)^T        S^-1 = (La V) diag(1/sigma) (La V)^T

which inverts no Gram matrix and no square root. The authors' code evaluates the paper's form by two eigendecompositions
per module in the factors' own precision; in float32 that yields NaN once cond(BA) is some 1e4, because round-off makes
a small eigenvalue negative. Here all r x r matrices are float64, batched and clamped, and the inverse is damped:
sigma -> sqrt(sigma^2 + (damping sigma_max)^2). Singular values of BA do not depend on how BA is factored, so neither
does the damping; adding a multiple of the identity to the Grams would.

In the same bases the inverse Grams of ScaledGD (Tong, Ma, Chi 2020, arXiv 2005.08898) are

    GA^-1 = (Lb U) diag(1/sigma^2) (Lb U)^T        GB^-1 = (La V) diag(1/sigma^2) (La V)^T

and with f = (damping sigma_max)^2 the damping sigma^2 -> sigma^2 + f makes them (GA + f GB^-1)^-1 and
(GB + f GA^-1)^-1.

A Gram squares a condition number. Rounding makes S^-1 gA wrong by about r eps / max(pivot, damping^2), where eps is
float64's 2e-16 and the pivot is the least one of the Grams scaled to unit diagonals: 2e-5 at 1e-10, measured. What is
neither damped nor conditioned better than that has no S here, rather than a wrong one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from reflora_cli.factors.newton_schulz import damped_inverse_root, largest_eigenvalue

STRONG_DAMPING = 1e-3
"""The least damping for which less precise ways are precise enough, as they lose 1 / damping."""
NOISE = 1e-6
"""The share of the largest singular value of BA below which a singular value found from Grams is noise."""
LEAST_PIVOT = 1e-10
"""The least pivot where damping is weaker than its root, 1e-5: it allows cond(A) and cond(B) up to some 1e5, for
rows and columns scaled to unit norms."""
LARGEST = 1e16
"""The largest entry of S and S^-1; with larger ones, squares of float32 gradients multiplied by them leave float32's
range."""
JITTER = 1e-13
"""What is added to a correlation matrix that is numerically singular: r times float64's precision, with room for r =
256."""


class Metric(NamedTuple):
    """S and its inverse for N pairs, float64 [N, r, r], symmetric up to rounding; the identity where `valid` [N] is
    false.

    S is damped and so is its inverse, each on its own: both stay bounded, and their product is the identity except in
    the directions that damping turns off, those in which BA (nearly) vanishes.
    """

    S: Tensor
    S_inverse: Tensor
    valid: Tensor


def balancing_metric(gram_a: Tensor, gram_b: Tensor, damping: float, least_pivot: float = 0.0) -> Metric:
    """Return S with S GA S = GB, for a stack of Gram matrices; damping 0 gives the exact S.

    gram_a: A A^T [N, r, r]; gram_b: B^T B [N, r, r], both float64. damping: a share of BA's largest singular value.

    A pair is not valid when one factor is zero or not finite; when S or S^-1 would be larger than LARGEST, as for
    factors of sizes too far apart; when damping is weak and BA is, to float64's precision, of lower rank (LEAST_PIVOT);
    and where a Gram, scaled to a unit diagonal, has a smaller pivot than `least_pivot`. On an accelerator nothing is
    decided on the host, and with strong damping it waits for nothing.
    """
    return Metric(*_made_by(way_for(gram_a.device, damping), gram_a, gram_b, damping, least_pivot))


class InverseGrams(NamedTuple):
    """Damped (A A^T)^-1 and (B^T B)^-1 for N pairs, float64 [N, r, r]; the identity where `valid` [N] is false."""

    A: Tensor
    B: Tensor
    valid: Tensor


def inverse_grams(gram_a: Tensor, gram_b: Tensor, damping: float, least_pivot: float = 0.0) -> InverseGrams:
    """Return the inverses of both Gram matrices, for a stack of them; damping 0 gives the exact ones.

    Arguments, and which pairs are valid, are those of `balancing_metric`. Nothing is decomposed but by Cholesky.
    """
    way = by_inverses if damping**2 < LEAST_PIVOT else by_solves
    return InverseGrams(*_made_by(way, gram_a, gram_b, damping, least_pivot))


def _made_by(
    way: Way, gram_a: Tensor, gram_b: Tensor, damping: float, least_pivot: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two matrices [N, r, r] of each pair and which pairs are valid [N]: see `balancing_metric`."""
    usable = finite(gram_a, gram_b)
    if damping**2 < LEAST_PIVOT:
        least_pivot = max(least_pivot, LEAST_PIVOT)
        usable = usable & without_zero_rows(gram_a) & without_zero_rows(gram_b)
    La, pivot_a = cholesky(or_identity(usable, gram_a))
    Lb, pivot_b = cholesky(or_identity(usable, gram_b))
    for_b, for_a = way(La, Lb, damping)
    trusted = torch.minimum(pivot_a, pivot_b) >= least_pivot
    valid = usable & trusted & _bounded(for_b) & _bounded(for_a)
    return or_identity(valid, for_b), or_identity(valid, for_a), valid


def product_spectrum(gram_a: Tensor, gram_b: Tensor) -> Tensor:
    """Return the singular values of BA [N, r], descending, from A A^T and B^T B, float64 [N, r, r].

    All are zero where a factor is not finite.

    A Gram squares a condition number, and JITTER puts a floor under it: a value below NOISE times the largest singular
    value cannot be told from zero, and is returned as zero.
    """
    usable = finite(gram_a, gram_b)
    La, pivot_a = cholesky(or_identity(usable, gram_a))
    Lb, pivot_b = cholesky(or_identity(usable, gram_b))
    K = Lb.mT @ La
    sigma: Tensor = torch.linalg.eigvalsh(K.mT @ K).clamp(min=0).sqrt().flip(-1)
    known = (usable & (torch.minimum(pivot_a, pivot_b) >= 0))[:, None] & (sigma > NOISE * sigma[:, :1])
    return torch.where(known, sigma, 0.0)


def effective_rank(sigma: Tensor) -> Tensor:
    """Return the effective rank [N] of spectra [N, r]: exp of the entropy of the singular values divided by their sum
    (Roy, Vetterli 2007, "The effective rank", EUSIPCO); 0 where all are 0.
    """
    total = sigma.sum(dim=1, keepdim=True)
    shares = sigma / torch.where(total > 0, total, 1)
    entropy = -torch.special.xlogy(shares, shares).sum(dim=1)
    return torch.where(total[:, 0] > 0, entropy.exp(), 0)


Way = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""A function from La, Lb and the damping to the damped matrices [N, r, r] for gB and for gA: S and S^-1, or GA^-1 and
GB^-1."""


def way_for(device: torch.device, damping: float) -> Way:
    """Return the fastest of the ways to S that is precise enough."""
    if damping < STRONG_DAMPING:
        return two_sided
    return one_sided if device.type == "cpu" else by_products


# Eigenvectors of squares instead of singular vectors: batched SVD is a loop over matrices beyond r = 32 on CUDA, and
# the noise of squaring K, 1e-8 sigma_max, lies far below any damping.


def two_sided(La: Tensor, Lb: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Compute S from U and V, both found in one eigendecomposition."""
    K = Lb.mT @ La
    squares, vectors = torch.linalg.eigh(torch.cat([K @ K.mT, K.mT @ K]))
    sigma = (squares.clamp(min=0) + damping**2 * squares[:, -1:].clamp(min=0)).sqrt()
    S, S_inverse = _outer(torch.cat([Lb, La]) @ vectors, 1 / sigma).chunk(2)
    return S, S_inverse


def one_sided(La: Tensor, Lb: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """From V alone, in half the time. With floor = damping sigma_max and d = sqrt(sigma^2 + floor^2), since U U^T = I
    and U sigma = K V,

        U diag(1/d) U^T = I / floor - K V diag(1 / (d floor (d + floor))) V^T K^T

    where nothing is divided by sigma.
    """
    K = Lb.mT @ La
    squares, V = torch.linalg.eigh(K.mT @ K)
    floor = damping * squares[:, -1:].clamp(min=0).sqrt()
    d = (squares.clamp(min=0) + floor**2).sqrt()
    inner = _outer(K @ V, -1 / (d * floor * (d + floor)))
    inner.diagonal(dim1=-2, dim2=-1).add_(1 / floor)
    return Lb @ inner @ Lb.mT, _outer(La @ V, 1 / d)


def by_products(La: Tensor, Lb: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Compute S from (K K^T)^-1/2 and (K^T K)^-1/2 by matrix products alone, without an eigendecomposition, which
    the host waits for.
    """
    K = Lb.mT @ La
    L = torch.cat([Lb, La])
    S, S_inverse = (L @ damped_inverse_root(torch.cat([K @ K.mT, K.mT @ K]), damping) @ L.mT).chunk(2)
    return S, S_inverse


def by_solves(La: Tensor, Lb: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Compute damped GA^-1 = Lb (K K^T + f I)^-1 Lb^T and GB^-1 = La (K^T K + f I)^-1 La^T, without dividing by a Gram,
    which may be singular. f is at most 0.2% too large at r = 64 (`largest_eigenvalue`).
    """
    K = Lb.mT @ La
    H = torch.cat([K @ K.mT, K.mT @ K])
    f = damping**2 * largest_eigenvalue(H[len(K) :])[:, None]
    H.diagonal(dim1=-2, dim2=-1).add_(torch.cat([f, f]))
    halves = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(H)[0], torch.cat([Lb, La]).mT, upper=False)
    GA_inverse, GB_inverse = (halves.mT @ halves).chunk(2)
    return GA_inverse, GB_inverse


def by_inverses(La: Tensor, Lb: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """Compute damped GA^-1 = (GA + f GB^-1)^-1 and GB^-1 = (GB + f GA^-1)^-1, which square no condition number of BA,
    for Grams that are not singular.
    """
    L = torch.cat([La, Lb])
    K = Lb.mT @ La
    f = damping**2 * largest_eigenvalue(K.mT @ K)[:, None, None]
    of_the_other = torch.cat([torch.cholesky_inverse(Lb), torch.cholesky_inverse(La)])
    damped = L @ L.mT + torch.cat([f, f]) * of_the_other
    GA_inverse, GB_inverse = torch.cholesky_inverse(torch.linalg.cholesky_ex(damped)[0]).chunk(2)
    return GA_inverse, GB_inverse


def _outer(F: Tensor, weights: Tensor) -> Tensor:
    """Return F diag(weights) F^T, for weights [N, r]."""
    return (F * weights[:, None, :]) @ F.mT


def cholesky(grams: Tensor) -> tuple[Tensor, Tensor]:
    """Return L [N, r, r] with L L^T = G, for positive semidefinite G without NaN, and the least pivot [N] of G scaled
    to a unit diagonal; where no L was found, that is NaN and L the identity.

    JITTER is added only where G is numerically singular, as a share of each row's norm: so badly scaled rows of a
    factor stay as accurate as the others. A zero row of G gives a zero row of L.
    """
    norms = grams.diagonal(dim1=-2, dim2=-1)
    exact, failed = torch.linalg.cholesky_ex(grams)
    if grams.device.type == "cpu" and not failed.any():  # elsewhere, asking would be a synchronization
        return exact, _least_pivot(exact, norms)
    deviations = norms.clamp(min=0).sqrt()
    reciprocal = torch.where(deviations > 0, 1 / deviations, 0)
    correlations = reciprocal[:, :, None] * grams * reciprocal[:, None, :]
    correlations.diagonal(dim1=-2, dim2=-1).fill_(1 + JITTER)
    jittered, failed_again = torch.linalg.cholesky_ex(correlations)
    L = torch.where((failed == 0)[:, None, None], exact, deviations[:, :, None] * jittered)
    found = (failed == 0) | (failed_again == 0)
    pivot = torch.where(failed == 0, _least_pivot(exact, norms), _least_pivot(jittered, torch.ones_like(norms)))
    return or_identity(found, L), torch.where(found, pivot, torch.nan)


def _least_pivot(L: Tensor, norms: Tensor) -> Tensor:
    """Return the least pivot [N] of the scaled Gram. norms: the diagonal [N, r] of L L^T."""
    return (L.diagonal(dim1=-2, dim2=-1).square() / norms).amin(-1)


def finite(gram_a: Tensor, gram_b: Tensor) -> Tensor:
    """Return for which pairs A A^T, B^T B [N, r, r] and K K^T are finite; ||A||^2 ||B||^2 bounds the entries of K
    K^T.
    """
    squares_a, squares_b = (gram.diagonal(dim1=-2, dim2=-1).sum(-1) for gram in (gram_a, gram_b))
    return (squares_a * squares_b).isfinite()


def _bounded(matrices: Tensor) -> Tensor:
    """Return which positive semidefinite matrices [N, r, r] have no entry beyond LARGEST. Diagonals bound the rest."""
    return (matrices.diagonal(dim1=-2, dim2=-1) <= LARGEST).all(-1)


def without_zero_rows(grams: Tensor) -> Tensor:
    """Return for which products F F^T [N, r, r] F has no row of zeros, which has no pivot to be judged by."""
    return (grams.diagonal(dim1=-2, dim2=-1) > 0).all(-1)


def or_identity(chosen: Tensor, matrices: Tensor) -> Tensor:
    """Return the matrices where `chosen` [N], else the identity; eigh raises on NaN, so none may reach it."""
    if chosen.device.type == "cpu" and chosen.all():  # elsewhere, asking would be a synchronization
        return matrices
    identity = torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)
    return torch.where(chosen[:, None, None], matrices, identity)
