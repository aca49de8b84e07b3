"""A pair of low-rank factors: the one thing that adapter layers and update rules both know."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

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


class Factored(ABC):
    """A module with a pair of factors: what an optimizer needs to know of an adapter layer.

    magnitude: DoRA's [out], or None.
    """

    magnitude: nn.Parameter | None

    @abstractmethod
    def pair(self, name: str) -> FactorPair:
        """The factors, under the module's name in the model."""


def scaling_factor(scaling: Scaling, alpha: float, rank: int) -> float:
    """s of `W + s B A`: alpha / r, or alpha / sqrt(r) for rsLoRA (Kalajdzievski 2023, arXiv 2312.03732)."""
    match scaling:
        case Scaling.STANDARD:
            return alpha / rank
        case Scaling.RSLORA:
            return alpha / math.sqrt(rank)
