"""The best change of a given rank: of all matrices of rank r, the one closest to a matrix in the Frobenius norm.

It is made of the r largest singular triplets (Eckart, Young 1936). Those of a product B A with B [out, R] and A [R, in]
are found without forming it: with B = Qb Rb and A^T = Qa Ra the matrix Rb Ra^T, R x R at most, has the same singular
values, and Qb, Qa turn its singular vectors into those of B A. Of a dense matrix M the r leading right singular vectors
V [r, in] come from Lanczos iterations (ARPACK), in float64 to rounding, and the triplets from M V^T [out, r]: a whole
decomposition of 1024 x 1024 took 14 times as long. The new factors are B = U sqrt(S) and A = sqrt(S) V^T.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from reflora_cli.combining.changes import Change, Dense, LowRank

WHOLE_BELOW = 4
"""Where the rank is more than 1/4 of what a matrix can have, a whole decomposition is as fast."""


@dataclass(frozen=True)
class Truncated:
    """A change of low rank, and what it lost. lost, whole: squared Frobenius norms, of what was left out and of the
    change that was truncated.
    """

    change: LowRank
    lost: float
    whole: float


def truncated(change: Change, rank: int) -> Truncated:
    """Return the change of this rank, or less, that is closest to the given one."""
    match change:
        case LowRank():
            return of_triplets(*triplets(change), rank)
        case Dense(values):
            return leading(values, rank)


def triplets(change: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """Return the singular triplets of B A: U [out, k], S [k], descending, and Vh [k, in], where k is at most R, out and
    in.
    """
    left, core_left = torch.linalg.qr(change.B)
    right, core_right = torch.linalg.qr(change.A.mT)
    U, S, Vh = torch.linalg.svd(core_left @ core_right.mT, full_matrices=False)
    return left @ U, S, Vh @ right.mT


def leading(values: Tensor, rank: int) -> Truncated:
    """Return the best change of this rank for a dense matrix [out, in]."""
    if rank * WHOLE_BELOW >= min(values.shape) or not values.any():
        U, S, Vh = torch.linalg.svd(values, full_matrices=False)
        return of_triplets(U, S, Vh, rank)
    begin = numpy.ones(min(values.shape))
    V = torch.from_numpy(svds(values.numpy(), k=rank, v0=begin, return_singular_vectors="vh")[2].copy())
    U, S, Vh = torch.linalg.svd(values @ V.mT, full_matrices=False)
    found, whole = of_triplets(U, S, Vh @ V, rank), float(values.square().sum())
    return Truncated(found.change, max(0.0, whole - float(S.square().sum())), whole)


def of_triplets(U: Tensor, S: Tensor, Vh: Tensor, rank: int) -> Truncated:
    """Return the change of the largest singular triplets. U: [out, k], S: [k], descending, Vh: [k, in]."""
    roots, squares = S[:rank].sqrt(), S.square()
    change = LowRank(U[:, :rank] * roots, roots[:, None] * Vh[:rank])
    return Truncated(change, float(squares[rank:].sum()), float(squares.sum()))
