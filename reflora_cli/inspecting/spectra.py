"""What the singular values of a product B A say, and how its factors are balanced.

The singular triplets of B A [out, in] are found through the R x R core of its factors (`combining/truncated.py`), never
from the dense product. Stable rank: Rudelson, Vershynin 2007, arXiv math/0503442.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reflora_cli.combining.changes import LowRank
from reflora_cli.combining.truncated import triplets
from reflora_cli.factors.linalg import effective_rank


@dataclass(frozen=True)
class Triplets:
    """The singular triplets of a matrix that are not zero. U: [out, k]. S: [k], descending. V: [in, k]; all float64."""

    U: Tensor
    S: Tensor
    V: Tensor

    @property
    def rank(self) -> int:
        return self.S.shape[0]


@dataclass(frozen=True)
class Spectrum:
    """What is told by the singular values of a product B A, with its scale.

    singular_values: descending, as many as the factors have ranks; what cannot be told from zero is 0. frobenius,
    spectral: its norms. rank: the number of singular values that are not 0. effective_rank: exp of the Shannon entropy
    of the singular values divided by their sum. stable_rank: squared Frobenius norm over squared spectral norm.
    condition: the largest over the last singular value. These are None for a product that is zero, and the condition
    too where a singular value is 0.
    """

    singular_values: tuple[float, ...]
    frobenius: float
    spectral: float
    rank: int
    effective_rank: float | None
    stable_rank: float | None
    condition: float | None


@dataclass(frozen=True)
class Balance:
    """How alike in size two factors are.

    norm_a, norm_b: Frobenius norms of A and B as they are trained, without the scale. ratio: norm_b / norm_a; None for
    A = 0. imbalance: ||A A^T - B^T B||_F / (||A A^T||_F + ||B^T B||_F), from 0 for balanced factors to 1; None where
    both are zero.
    """

    norm_a: float
    norm_b: float
    ratio: float | None
    imbalance: float | None


def triplets_of(change: LowRank) -> Triplets:
    """Return the singular triplets of B A that are not zero.

    Singular values of at most max(out, in) eps ||B||_F ||A||_F are zero: the product of the factors, computed in
    float64, is no more precise.
    """
    U, S, Vh = triplets(change)
    floor = max(change.shape) * torch.finfo(S.dtype).eps * change.B.norm() * change.A.norm()
    k = int((floor < S).sum())
    return Triplets(U[:, :k], S[:k], Vh[:k].mT)


def spectrum(found: Triplets, rank: int) -> Spectrum:
    """Return what the singular values say. rank: how many ranks the factors have."""
    values = [*found.S.tolist(), *[0.0] * (rank - found.rank)]
    if not found.rank:
        return Spectrum(tuple(values), 0.0, 0.0, 0, None, None, None)
    frobenius, spectral = float(found.S.norm()), values[0]
    return Spectrum(
        singular_values=tuple(values),
        frobenius=frobenius,
        spectral=spectral,
        rank=found.rank,
        effective_rank=float(effective_rank(found.S[None])[0]),
        stable_rank=float((found.S / spectral).square().sum()),
        condition=spectral / values[-1] if values[-1] else None,
    )


def balance(pair: LowRank) -> Balance:
    """Return how balanced a pair is. pair: B and A without their scale."""
    gram_a, gram_b = pair.A @ pair.A.mT, pair.B.mT @ pair.B
    norm_a, norm_b, whole = float(pair.A.norm()), float(pair.B.norm()), float(gram_a.norm() + gram_b.norm())
    return Balance(
        norm_a=norm_a,
        norm_b=norm_b,
        ratio=norm_b / norm_a if norm_a else None,
        imbalance=float((gram_a - gram_b).norm()) / whole if whole else None,
    )
