"""The same numbers from dense matrices in float64, by numpy's decompositions: what the inspection never computes."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

Matrix = Any
"""A numpy array [out, in], float64."""


def matrix(tensor: Tensor) -> Matrix:
    return tensor.detach().double().numpy()


def entropy_rank(sigma: Matrix) -> float:
    shares = sigma[sigma > 1e-12 * sigma[0]] / sigma.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def stable_rank(change: Matrix) -> float:
    return float(np.linalg.norm(change) ** 2 / np.linalg.norm(change, 2) ** 2)


def magnitude_change(W: Matrix, changed: Matrix) -> float:
    return float(np.abs(np.linalg.norm(changed, axis=1) - np.linalg.norm(W, axis=1)).mean())


def direction_change(W: Matrix, changed: Matrix) -> float:
    products = (W * changed).sum(axis=1)
    return float((1 - products / np.linalg.norm(W, axis=1) / np.linalg.norm(changed, axis=1)).mean())


def spaces(change: Matrix, rank: int) -> tuple[Matrix, Matrix]:
    """The leading left and right singular vectors."""
    U, _, Vh = np.linalg.svd(change)
    return U[:, :rank], Vh[:rank].T


def phi(one: Matrix, other: Matrix) -> float:
    return float(np.linalg.norm(one.T @ other) ** 2 / min(one.shape[1], other.shape[1]))


def amplification(W: Matrix, change: Matrix, rank: int) -> float:
    U, V = spaces(change, rank)
    return float(np.linalg.norm(change) / np.linalg.norm(U.T @ W @ V))
