"""Orthonormal frames of the rows of A and the columns of B, for many pairs at once, and what leads from factors to
frames and back: what an optimizer does in these frames does not depend on how BA is factored.

With A A^T = L L^T and L^T (B^T B) L = V diag(sigma^2) V^T, sigma are the singular values of BA, and

    BA = Phi_B diag(sigma) Phi_A^T        Phi_A = A^T L^-T V        Phi_B = B L V diag(1/sigma)

is its singular value decomposition. To move BA within the rows of A by M_B [out, r], BA <- BA + M_B Phi_A^T, is to move
B by M_B (L^-T V)^T; to move it within the columns of B, BA <- BA + Phi_B M_A, is to move A by L V diag(1/sigma) M_A,
which grows without bound where BA loses rank. Together both moves add a term M_B diag(1/sigma) M_A to BA. It is
bounded by damping: 1/sigma -> 1/sqrt(sigma^2 + (damping sigma_max)^2) in A's move. Singular values of BA do not depend
on how BA is factored, so neither does the damping.

Only one of the factors is damped, because that bounds the term, and because a direction in which both moves vanish is
never left again: with B = 0, where a run of LoRA begins, A stays for one step while B moves at full rate, and a
direction that BA does not have yet is one that B can still take. The other factor must have full rank: it is A, unless
A is numerically singular and B is not; then A and B exchange their roles.

Weak directions drift: as A grows in one of them B's moves there shrink, and a tiny component of B with a huge one of A
is the same BA until float32 loses it between the other components. Therefore the factors can be balanced. With
T T = L V diag(1/sigma) V^T L^T, damped as above, T^-1 A and B T have equal Grams but for weak directions. T is that
positive definite root, and no other, because it depends continuously on the factors: processes that train copies of a
model must not choose different signs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reflora_cli.factors.linalg import NOISE, cholesky, finite, or_identity, without_zero_rows

SINGULAR = 1e-12
"""The least pivot of a Gram scaled to a unit diagonal with which its factor counts as one of full rank."""


class Frames(NamedTuple):
    """Matrices for N pairs, float64 [N, r, r]; where `valid` [N] is false the first four are zero.

    of_a, of_b: A^T of_a [in, r] and B of_b [out, r] have orthonormal columns. Columns of the damped factor's frame are
    zero where BA, to float32's precision, has no such direction.
    for_a, for_b: the gradients in these frames are for_a^T gA [r, in] and gB for_b [out, r], and steps M_A and M_B in
    them move A by for_a M_A and B by M_B for_b^T.
    balancing_a, balancing_b: with them balancing_a A and B balancing_b are balanced factors of BA; both are symmetric,
    and the identity where BA is zero or the pair is not valid.
    """

    of_a: Tensor
    of_b: Tensor
    for_a: Tensor
    for_b: Tensor
    balancing_a: Tensor
    balancing_b: Tensor
    valid: Tensor


def frames_of(gram_a: Tensor, gram_b: Tensor, damping: float) -> Frames:
    """Return the frames of pairs with A A^T `gram_a` and B^T B `gram_b`, float64 [N, r, r].

    damping: the share of BA's largest singular value below which directions are weak; NOISE is the least.

    A pair is not valid when both of its factors are numerically singular, or one is not finite.
    """
    usable = finite(gram_a, gram_b)
    gram_a, gram_b = or_identity(usable, gram_a), or_identity(usable, gram_b)
    (La, full_a), (Lb, full_b) = _factored(gram_a), _factored(gram_b)
    exchanged = (full_b & ~full_a)[:, None, None]
    valid = usable & (full_a | full_b)
    L = or_identity(valid, torch.where(exchanged, Lb, La))
    squares, V = torch.linalg.eigh(L.mT @ torch.where(exchanged, gram_a, gram_b) @ L)
    sigma = squares.clamp(min=0).sqrt()
    largest = sigma[:, -1:]
    undamped = torch.linalg.solve_triangular(L.mT, V, upper=True)
    frame = L @ V * _reciprocal(sigma, sigma > NOISE * largest)
    smoothed = (sigma.square() + (max(damping, NOISE) * largest).square()).sqrt()
    damped = L @ V * _reciprocal(smoothed, smoothed > 0)
    root, inverse = _roots(or_identity(valid & (largest[:, 0] > 0), damped @ (L @ V).mT))
    undamped, frame, damped = (torch.where(valid[:, None, None], own, 0.0) for own in (undamped, frame, damped))
    return Frames(
        torch.where(exchanged, frame, undamped),
        torch.where(exchanged, undamped, frame),
        torch.where(exchanged, undamped, damped),
        torch.where(exchanged, damped, undamped),
        torch.where(exchanged, root, inverse),
        torch.where(exchanged, inverse, root),
        valid,
    )


def inverse_root(V: Tensor, shift: Tensor, damping: float) -> Tensor:
    """Return (V + shift I + damping^2 v I)^-1/2 for symmetric positive semidefinite V [N, r, r], float64, v its largest
    eigenvalue and shift [N]; zero for directions in which that sum is zero, and for V that is not finite.
    """
    sound = V.isfinite().flatten(1).all(1)
    values, Q = torch.linalg.eigh(or_identity(sound, V))
    values = values.clamp(min=0) + shift[:, None] + damping**2 * values[:, -1:].clamp(min=0)
    root: Tensor = Q * _reciprocal(values.sqrt(), (values > 0) & sound[:, None]) @ Q.mT
    return (root + root.mT) / 2


def spectral_loss(before: Tensor, after: Tensor) -> Tensor:
    """Return by how much [N] an eigenvalue fell at most, both spectra in ascending order, for symmetric matrices
    [N, r, r]; 0 where none fell or a matrix is not finite.
    """
    sound = (before + after).isfinite().flatten(1).all(1)
    values = torch.linalg.eigvalsh(torch.cat([or_identity(sound, before), or_identity(sound, after)]))
    old, new = values.chunk(2)
    loss: Tensor = (old - new).amax(-1).clamp(min=0)
    return loss


def _factored(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the Cholesky factor [N, r, r] and which of the Grams are those of a factor of full rank [N]."""
    L, pivot = cholesky(gram)
    return L, without_zero_rows(gram) & (pivot > SINGULAR)


def _roots(S: Tensor) -> tuple[Tensor, Tensor]:
    """Return S^1/2 and S^-1/2 of symmetric positive definite matrices [N, r, r]."""
    values, Q = torch.linalg.eigh(S)
    roots = values.clamp(min=torch.finfo(S.dtype).tiny).sqrt()[:, None, :]
    return Q * roots @ Q.mT, Q / roots @ Q.mT


def _reciprocal(values: Tensor, chosen: Tensor) -> Tensor:
    """Return 1 / values [N, 1, r] to scale columns, 0 where not chosen. values, chosen: [N, r]."""
    return torch.where(chosen, 1 / torch.where(chosen, values, 1), 0)[:, None, :]
