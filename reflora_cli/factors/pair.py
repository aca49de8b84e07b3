"""A pair of low-rank factors, and the roles of trained parameters: what adapter layers and optimizers both know."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum

from torch import nn

from reflora_cli.methods.axes import Scaling


@dataclass(frozen=True)
class FactorPair:
    """The factors of one adapted module: the update of its weight is `scale * B @ A`.

    name: path of the module in the model, without a trailing dot.
    A: [r, in], float32.  B: [out, r], float32.
    """

    name: str
    A: nn.Parameter
    B: nn.Parameter
    scale: float

    @property
    def rank(self) -> int:
        return self.A.shape[0]


@dataclass(frozen=True)
class Triplets:
    """r singular-value-like triplets of one adapted module: the update of its weight is a multiple of B diag(E) A.

    name: path of the module in the model.  A: [r, in].  E: [r, 1].  B: [out, r]; all float32.
    """

    name: str
    A: nn.Parameter
    E: nn.Parameter
    B: nn.Parameter


class Role(Enum):
    """What a trained parameter of an adapter is, which decides its learning rate and whether it is decayed."""

    FACTOR_A = "A of a pair"
    FACTOR_B = "B of a pair"
    DECAYED = "near zero where it has no effect, as a matrix of an adapter"
    FRAME = "a matrix whose columns are orthonormal, or its rows if it is wide"
    UNDECAYED = "far from zero where it has no effect, as a norm or a gain"


class Factored(ABC):
    """A module with pairs of factors, or with none: what an optimizer needs to know of an adapter layer."""

    @abstractmethod
    def pairs(self, name: str) -> list[FactorPair]:
        """Return the pairs of the module, which is called `name` in the model; their factors have such roles too."""

    def triplets(self, name: str) -> list[Triplets]:
        """Return the triplets of the module, which is called `name` in the model; none where it is no such layer."""
        return []

    @abstractmethod
    def roles(self) -> dict[str, Role]:
        """Return the role of every trained parameter of the module, by its name there."""


def scaling_factor(scaling: Scaling, alpha: float, rank: int) -> float:
    """Return s of `W + s B A`: alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732)."""
    match scaling:
        case Scaling.STANDARD:
            return alpha / rank
        case Scaling.RSLORA:
            return alpha / math.sqrt(rank)
