"""What an adapter changes of one weight, W_eff - W [out, in], as two factors or as a dense matrix; all float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LowRank:
    """A change B A. B: [out, r], with the adapter's scale in it; A: [r, in]."""

    B: Tensor
    A: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight, (out, in)."""
        return self.B.shape[0], self.A.shape[1]

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    def dense(self) -> Tensor:
        """Return B A [out, in]."""
        return self.B @ self.A

    def times(self, weight: float) -> LowRank:
        """Return the change, multiplied by a number."""
        return LowRank(self.B * weight, self.A)


@dataclass(frozen=True)
class Dense:
    """A change that is not known as two factors. values: [out, in]."""

    values: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of the weight, (out, in)."""
        return self.values.shape[0], self.values.shape[1]

    def dense(self) -> Tensor:
        """Return the change [out, in]."""
        return self.values

    def times(self, weight: float) -> Dense:
        """Return the change, multiplied by a number."""
        return Dense(self.values * weight)


Change = LowRank | Dense


def concatenated(changes: Iterable[LowRank]) -> LowRank:
    """Return the sum of changes: their factors side by side, whose ranks add up. Nothing is lost."""
    found = list(changes)
    return LowRank(torch.cat([own.B for own in found], dim=1), torch.cat([own.A for own in found]))


def dense_sum(changes: Iterable[Change]) -> Tensor:
    """Return the sum of changes [out, in]."""
    return torch.stack([own.dense() for own in changes]).sum(dim=0)
