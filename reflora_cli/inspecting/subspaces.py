"""How alike subspaces are, and the changes that two adapters make of one weight.

Similarity of subspaces: Hu et al. 2021, arXiv 2106.09685, section 7.2,

    phi(i, j) = ||U_i^T V_j||_F^2 / min(i, j)

for the first i columns of U and the first j of V, both with orthonormal columns: 1 where one subspace lies in the
other, 0 where they are orthogonal. The paper takes singular vectors of the factors; here they are those of dW, which do
not depend on how dW is factored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from reflora_cli.combining.changes import LowRank, concatenated
from reflora_cli.inspecting.spectra import Triplets, triplets_of


@dataclass(frozen=True)
class Overlap:
    """How alike the subspaces of two changes are. phi: of the whole subspaces. grid: phi(i, j), with a row for each i
    of the first change. degrees: the principal angles, ascending. random: what phi is on average for random subspaces.
    """

    phi: float
    grid: tuple[tuple[float, ...], ...]
    degrees: tuple[float, ...]
    random: float


@dataclass(frozen=True)
class Alike:
    """Two changes of one weight, or their parts of low rank.

    cosine: <dW1, dW2> / (||dW1|| ||dW2||), Frobenius; None where one is zero. distance: ||dW1 - dW2|| / sqrt(||dW1||^2
    + ||dW2||^2): 0 for equal, 1 for orthogonal, sqrt 2 for opposite ones; None where both are zero. columns, rows:
    their column spaces and their row spaces, those of outputs and of inputs; None where one change is zero.
    """

    module: str
    cosine: float | None
    distance: float | None
    columns: Overlap | None
    rows: Overlap | None


def similarity(one: Tensor, other: Tensor) -> float:
    """Return phi of two subspaces. one: [n, i], other: [n, j], with orthonormal columns."""
    found = float((one.mT @ other).square().sum()) / min(one.shape[1], other.shape[1])
    return min(1.0, found)


def overlap(one: Tensor, other: Tensor) -> Overlap:
    """Return how alike two subspaces are. one: [n, i], other: [n, j], with orthonormal columns in an order."""
    products = one.mT @ other
    sums = products.square().cumsum(dim=0).cumsum(dim=1)
    i, j = (torch.arange(1, size + 1, dtype=sums.dtype) for size in products.shape)
    grid = (sums / torch.minimum(i[:, None], j)).clamp(max=1.0)
    return Overlap(
        phi=float(grid[-1, -1]),
        grid=tuple(map(tuple, grid.tolist())),
        degrees=principal_angles(one, other, products),
        random=max(products.shape) / one.shape[0],
    )


def principal_angles(one: Tensor, other: Tensor, products: Tensor) -> tuple[float, ...]:
    """Return the principal angles in degrees, ascending. products: one^T other.

    Small ones come from their sines, large ones from their cosines: each is precise where the other is not (Björck,
    Golub 1973).
    """
    cosines = torch.linalg.svdvals(products).clamp(max=1.0)
    small, large = (other, one) if other.shape[1] <= one.shape[1] else (one, other)
    sines = torch.linalg.svdvals(small - large @ (large.mT @ small)).clamp(max=1.0).flip(0)
    angles = torch.where(cosines > math.sqrt(0.5), torch.arcsin(sines), torch.arccos(cosines))
    return tuple(torch.rad2deg(angles).tolist())


def alike(module: str, changes: tuple[LowRank, LowRank], found: tuple[Triplets, Triplets]) -> Alike:
    """Return how alike two changes of a module's weight are. found: their triplets."""
    (one, other), (first, second) = changes, found
    norms = [float(own.S.norm()) for own in found]
    if not any(norms):
        return Alike(module, None, None, None, None)
    apart = triplets_of(concatenated([one, other.times(-1.0)]))
    distance = float(apart.S.norm()) / math.hypot(*norms)
    if not all(norms):
        return Alike(module, None, distance, None, None)
    inner = float(((one.B.mT @ other.B) * (one.A @ other.A.mT)).sum())
    cosine = max(-1.0, min(1.0, inner / (norms[0] * norms[1])))
    return Alike(module, cosine, distance, overlap(first.U, second.U), overlap(first.V, second.V))
