"""Small problems whose best weights are known: what is adapted, and the loss of an adapted weight.

A problem is made for several seeds at once. Each seed draws its own weights and data, and no two methods or learning
rates see different ones. All tensors are float64. The largest singular value of every change that is to be learned is
1, and so is the largest eigenvalue of every quadratic form, so that one grid of learning rates serves all problems.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

SIZE = 40
"""Rows and columns of the weights, where nothing else is said."""
BATCH, NOISE = 32, 0.1
"""Rows of a drawn batch, and the standard deviation of the noise in their answers."""
Draw = torch.Generator


@dataclass(frozen=True)
class Problem:
    """What is learned from S seeds.

    bases: the frozen weights of each adapted layer, [S, out, in].
    loss: from the weights of each layer, [R, S, out, in] for R learning rates, to what is reported, [R, S].
    trained: the same for the loss whose gradient is taken in a step, which is given by its number.
    """

    bases: Sequence[Tensor]
    loss: Callable[[Sequence[Tensor]], Tensor]
    trained: Callable[[Sequence[Tensor], int], Tensor]


@dataclass(frozen=True)
class Family:
    """A kind of problem and its numbers. rank: of the change to be learned. condition: ratio of its largest singular
    value, or of the data's, to the smallest; 1 where that is not varied."""

    name: str
    rank: int
    condition: float = 10.0
    size: int = field(default=SIZE)


def problem_of(family: Family, seeds: Sequence[int]) -> Problem:
    """Return the problem of a family for these seeds."""
    make = {
        "factorization": factorization,
        "published factorization": published_factorization,
        "sensing": sensing,
        "regression": regression,
        "noisy regression": noisy_regression,
        "two layers": two_layers,
    }[family.name]
    return make(family, [generator(seed) for seed in seeds])


def generator(seed: int) -> Draw:
    """Return a generator of its own for a seed."""
    return torch.Generator().manual_seed(7919 * seed + 17)


def normal(draw: Draw, *shape: int) -> Tensor:
    """Return standard normal numbers in float64."""
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def frame(draw: Draw, rows: int, columns: int) -> Tensor:
    """Return a random matrix with orthonormal columns."""
    return torch.linalg.qr(normal(draw, rows, columns)).Q


def of_spectrum(draw: Draw, out: int, inner: int, singular: Tensor) -> Tensor:
    """Return a random matrix [out, inner] with these singular values."""
    return frame(draw, out, len(singular)) * singular @ frame(draw, inner, len(singular)).mT


def geometric(condition: float, count: int) -> Tensor:
    """Return numbers from 1 down to 1 / condition, each the same share of the one before."""
    return torch.logspace(0, -torch.tensor(float(condition)).log10().item(), count, dtype=torch.float64)


def half_squares(residual: Tensor) -> Tensor:
    """Return half the sum of squares over the last two dimensions."""
    return 0.5 * residual.square().sum((-1, -2))


def without_noise(bases: Sequence[Tensor], loss: Callable[[Sequence[Tensor]], Tensor]) -> Problem:
    """Return a problem that trains the loss that it reports."""
    return Problem(bases, loss, lambda weights, step: loss(weights))


def factorization(family: Family, draws: Sequence[Draw]) -> Problem:
    """1/2 ||Y - B A||^2, for Y of the given rank and condition."""
    n = family.size
    target = torch.stack([of_spectrum(draw, n, n, geometric(family.condition, family.rank)) for draw in draws])
    return without_noise([torch.zeros_like(target)], lambda weights: half_squares(weights[0] - target))


def published_factorization(family: Family, draws: Sequence[Draw]) -> Problem:
    """1/2 ||Y - B A||^2 for singular values of Y from 21 to 28, which give the losses of RefLoRA's figure."""
    n, spectrum = family.size, torch.linspace(28, 21, family.rank, dtype=torch.float64)
    target = torch.stack([of_spectrum(draw, n, n, spectrum) for draw in draws])
    return without_noise([torch.zeros_like(target)], lambda weights: half_squares(weights[0] - target))


def sensing(family: Family, draws: Sequence[Draw]) -> Problem:
    """Half the mean square of <M_k, X> - <M_k, Y>, for normal M_k, four times as many as Y has degrees of freedom."""
    n, rank = family.size, family.rank
    count = 4 * rank * (2 * n - rank)
    targets, measures = [], []
    for draw in draws:
        targets.append(of_spectrum(draw, n, n, geometric(family.condition, rank)))
        measures.append(normal(draw, count, n * n) / count**0.5)
    target, measure = torch.stack(targets), torch.stack(measures)

    def loss(weights: Sequence[Tensor]) -> Tensor:
        residual = (weights[0] - target).flatten(2).transpose(0, 1)  # [S, R, n n]
        return 0.5 * (residual @ measure.mT).square().sum(-1).T

    return without_noise([torch.zeros_like(target)], loss)


@dataclass(frozen=True)
class Fine:
    """A regression that begins at W [S, n, n] and ends at W + change; root: that of the inputs' covariance."""

    base: Tensor
    target: Tensor
    root: Tensor

    @classmethod
    def drawn(cls, family: Family, draws: Sequence[Draw]) -> Fine:
        """Draw W with a spectrum that decays as that of trained weights, a change of half the rank, and the data."""
        n, rank = family.size, max(1, family.rank // 2)
        bases, changes, roots = [], [], []
        for draw in draws:
            bases.append(of_spectrum(draw, n, n, geometric(30, n)))
            changes.append(of_spectrum(draw, n, n, geometric(3, rank)))
            basis = frame(draw, n, n)
            roots.append(basis * geometric(family.condition, n).sqrt() @ basis.mT)
        base = torch.stack(bases)
        return cls(base, base + torch.stack(changes), torch.stack(roots))

    def loss(self, weights: Sequence[Tensor]) -> Tensor:
        """Return half the expected square of the residual, over the inputs."""
        return half_squares((weights[0] - self.target) @ self.root)


def regression(family: Family, draws: Sequence[Draw]) -> Problem:
    """1/2 E ||(W' - W*) x||^2 for inputs x whose covariance has the given condition, from a W that is near W*."""
    fine = Fine.drawn(family, draws)
    return without_noise([fine.base], fine.loss)


def noisy_regression(family: Family, draws: Sequence[Draw]) -> Problem:
    """The same, trained on a fresh batch of 32 rows with noisy answers in each step; reported without noise."""
    fine = Fine.drawn(family, draws)
    inner, seeds = family.size, [draw.initial_seed() for draw in draws]

    def trained(weights: Sequence[Tensor], step: int) -> Tensor:
        batches = [
            normal(torch.Generator().manual_seed(seed + 104729 * (step + 1)), BATCH, 2 * inner) for seed in seeds
        ]
        x = torch.stack(batches)[..., :inner] @ fine.root
        noise = NOISE * torch.stack(batches)[..., inner:]
        return half_squares(x @ (weights[0] - fine.target).mT - noise) / BATCH

    return Problem([fine.base], fine.loss, trained)


def two_layers(family: Family, draws: Sequence[Draw]) -> Problem:
    """Half the mean square between W2' relu(W1' x) and its teacher, both of whose weights differ from W1 and W2 by low
    rank, on 64 inputs."""
    n, rank = family.size, max(1, family.rank // 2)
    first, second, inputs, answers = [], [], [], []
    for draw in draws:
        W1, W2 = (of_spectrum(draw, n, n, geometric(30, n)) * 2 for _ in range(2))
        changes = [of_spectrum(draw, n, n, geometric(3, rank)) for _ in range(2)]
        x = normal(draw, 64, n)
        first.append(W1)
        second.append(W2)
        inputs.append(x)
        answers.append((x @ (W1 + changes[0]).mT).relu() @ (W2 + changes[1]).mT)
    x, y = torch.stack(inputs), torch.stack(answers)

    def loss(weights: Sequence[Tensor]) -> Tensor:
        return half_squares((x @ weights[0].mT).relu() @ weights[1].mT - y) / x.shape[-2]

    return without_noise([torch.stack(first), torch.stack(second)], loss)
