"""Damped inverse square roots by matrix products alone, for devices where an eigendecomposition is slow or waits.

The coupled Newton-Schulz iteration (Higham 2008, section 6.7) takes Y -> H^1/2 and Z -> H^-1/2 by products with
T = (3 I - Z Y) / 2. An eigenvalue p of Z Y, in (0, 1], becomes p (3 - p)^2 / 4, so a small one grows by 9/4 in each
iteration. Multiplied by 3 / (1 + sqrt(l) + l) before, l being the least eigenvalue, it grows by 27/4 instead
(Chen & Chow 2014, "A stable scaling of Newton-Schulz"). The damping says what the least eigenvalue is: the whole
iteration is planned beforehand, and nothing is decided by looking at numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

SQUARINGS = 10
"""The number of squarings that bound the largest eigenvalue: the bound is at most r^(1 / 2^11) times too large, 0.2%
at r = 64 if all are equal."""
LARGEST_FACTOR = 2.9
"""The largest factor; beyond 3 an eigenvalue would change its sign, and rounding must not take it there."""
CLOSE = 1e-8
"""The distance from 1 at which scaling ends: a last plain iteration squares it, to float64's precision."""


def damped_inverse_root(H: Tensor, damping: float) -> Tensor:
    """Return (H + damping^2 h I)^-1/2 [N, r, r], for symmetric positive semidefinite H [N, r, r], float64, h its
    largest eigenvalue. damping: from 1e-4 to 1. Not finite for H = 0.
    """
    top = largest_eigenvalue(H)
    floor = damping**2
    size = top * (1 + floor)
    Y = H / size[:, None, None]
    Y.diagonal(dim1=-2, dim2=-1).add_(floor / (1 + floor))
    Z = torch.eye(H.shape[-1], dtype=H.dtype, device=H.device).expand_as(H)
    for factor in factors(floor / (1 + floor)):
        T = torch.matmul(Z, Y).mul_(-factor / 2)
        T.diagonal(dim1=-2, dim2=-1).add_(1.5)
        T.mul_(math.sqrt(factor))
        Y, Z = Y @ T, T @ Z
    return (Z + Z.mT) / (2 * size.sqrt()[:, None, None])


def largest_eigenvalue(H: Tensor) -> Tensor:
    """Return an upper bound [N] of the largest eigenvalue of symmetric positive semidefinite matrices [N, r, r].

    It is the Frobenius norm of H^k, k = 2^SQUARINGS, to the power 1 / k; every square is normalized.
    """
    logarithm = torch.zeros(len(H), dtype=H.dtype, device=H.device)
    power = 1.0
    for squaring in range(SQUARINGS + 1):
        norm = torch.linalg.matrix_norm(H)
        logarithm = logarithm + power * norm.log()
        if squaring < SQUARINGS:
            H = H / norm[:, None, None]
            H = H @ H
            power /= 2
    return logarithm.exp()


def factors(least: float) -> Iterator[float]:
    """Return what Z Y is multiplied by in each iteration, when its eigenvalues lie in [least, 1]; the last ones are
    1.
    """
    while 1 - least > CLOSE:
        factor = min(LARGEST_FACTOR, 3 / (1 + math.sqrt(least) + least))
        yield factor
        least = min(factor * bound * (3 - factor * bound) ** 2 / 4 for bound in (least, 1.0))
    yield 1.0
