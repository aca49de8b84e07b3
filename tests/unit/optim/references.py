"""What the optimizer's tests compare with: formulas written a second time, in float64, one pair at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import repeat

import mpmath
import torch
from torch import Tensor, nn

from reflora_cli.factors.linalg import Metric, balancing_metric
from reflora_cli.factors.pair import FactorPair

SHAPES = [(12, 10, 3), (12, 10, 3), (10, 12, 3), (12, 10, 5), (7, 9, 1)]
"""(out, in, r)"""
SCALES = [2.0, 0.5, 4.0, 2.0, 1.0]
"""Scales s of pairs of these shapes."""


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal columns, float64 [rows, columns]."""
    return torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator))[0]


def conditioned(rows: int, columns: int, condition: float, generator: torch.Generator) -> Tensor:
    """A random float64 [rows, columns] matrix with singular values from 1 down to 1 / condition."""
    r = min(rows, columns)
    values = torch.logspace(0, -torch.tensor(condition).log10().item(), r, dtype=torch.float64)
    return orthonormal(rows, r, generator) * values @ orthonormal(columns, r, generator).T


def metric_of(A: Tensor, B: Tensor, damping: float = 0.0) -> Metric:
    """The package's metric of a single pair, [r, r]."""
    A, B = A.double(), B.double()
    metric = balancing_metric((A @ A.T)[None], (B.T @ B)[None], damping)
    return Metric(*(part[0] for part in metric))


def metric_by_svd(A: Tensor, B: Tensor, damping: float = 0.0) -> tuple[Tensor, Tensor]:
    """S and S^-1 [r, r] from thin QR of the factors and the SVD of RB RA^T: no Gram matrix, nothing squared."""
    Ra, Rb = torch.linalg.qr(A.double().T)[1], torch.linalg.qr(B.double())[1]
    U, sigma, Vh = torch.linalg.svd(Rb @ Ra.T)
    inverse = 1 / (sigma**2 + (damping * sigma[0]) ** 2).sqrt()
    return Rb.T @ U * inverse @ U.T @ Rb, Ra.T @ Vh.T * inverse @ Vh @ Ra


def exact_metric(A: Tensor, B: Tensor, damping: float = 0.0) -> tuple[Tensor, Tensor]:
    """S and S^-1 [r, r] of factors of full rank in 60 decimal digits, rounded to float64 at the end."""
    with mpmath.workdps(60):
        A, B = (mpmath.matrix(factor.double().tolist()) for factor in (A, B))
        La, Lb = mpmath.cholesky(A * A.T), mpmath.cholesky(B.T * B)
        found = []
        for L, other in ((Lb, La), (La, Lb)):
            squares, Q = mpmath.eigsy(L.T * other * other.T * L)
            damped = [1 / mpmath.sqrt(square + mpmath.mpf(damping) ** 2 * max(squares)) for square in squares]
            matrix = L * Q * mpmath.diag(damped) * Q.T * L.T
            found.append(torch.tensor([[float(x) for x in row] for row in matrix.tolist()], dtype=torch.float64))
    return found[0], found[1]


def paper_metric(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """S = GA^-1/2 (GA^1/2 GB GA^1/2)^1/2 GA^-1/2 and S^-1 as the paper states them, without damping or clamping.

    In the precision of the factors; this is the evaluation by two eigendecompositions of the authors' code.
    """
    tiny = torch.finfo(A.dtype).eps
    values, Q = torch.linalg.eigh(A @ A.T)
    root, root_inverse = Q * values.sqrt() @ Q.T, Q * (1 / (values.sqrt() + tiny)) @ Q.T
    values, Q = torch.linalg.eigh(root @ (B.T @ B) @ root)
    middle, middle_inverse = Q * values.sqrt() @ Q.T, Q * (1 / (values.sqrt() + tiny)) @ Q.T
    return root_inverse @ middle @ root_inverse, root @ middle_inverse @ root


def pair_of(A: Tensor, B: Tensor, name: str = "module", scale: float = 1.0) -> FactorPair:
    return FactorPair(name, nn.Parameter(A.clone()), nn.Parameter(B.clone()), scale)


def random_pairs(
    shapes: Sequence[tuple[int, int, int]] = SHAPES,
    scales: Iterable[float] = repeat(1.0),
    condition: float = 30.0,
    dtype: torch.dtype = torch.float64,
) -> tuple[list[FactorPair], list[Tensor]]:
    """Pairs whose B have this condition, and a gradient G [out, in] of each one's weight, as the factors see it too."""
    g = torch.Generator().manual_seed(0)
    pairs, weights = [], []
    for n, ((out, width, r), scale) in enumerate(zip(shapes, scales, strict=False)):
        A, B = conditioned(r, width, 3.0, g).to(dtype), conditioned(out, r, condition, g).to(dtype)
        pairs.append(pair_of(A, B, f"layers.{n}", scale))
        weights.append(torch.randn(out, width, dtype=torch.float64, generator=g).to(dtype))
        give_gradients(pairs[-1], weights[-1])
    return pairs, weights


def give_gradients(pair: FactorPair, G: Tensor) -> None:
    """The factors' gradients for that G of the weight."""
    pair.A.grad, pair.B.grad = pair.scale * pair.B.detach().T @ G, pair.scale * G @ pair.A.detach().T


def grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """X [40, 6], targets [40, 8], A [3, 6] and B = 0, in float64."""
    g = torch.Generator().manual_seed(3)
    X = torch.randn(40, 6, dtype=torch.float64, generator=g)
    target = X @ torch.randn(6, 8, dtype=torch.float64, generator=g)
    return X, target, conditioned(3, 6, 2.0, g), torch.zeros(8, 3, dtype=torch.float64)


@dataclass
class HandAdam:
    """Adam with bias correction as printed in its paper, for one tensor, out of place."""

    rate: float
    eps: float = 1e-8
    m: Tensor | float = 0.0
    v: Tensor | float = 0.0
    t: int = field(default=0)

    def __call__(self, parameter: Tensor, gradient: Tensor) -> Tensor:
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        m_hat, v_hat = self.m / (1 - 0.9**self.t), self.v / (1 - 0.999**self.t)
        return parameter - self.rate * m_hat / (v_hat.sqrt() + self.eps)
