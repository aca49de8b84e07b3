"""What an adapter makes of one weight W [out, in]: a function of rows of W, and the parts of it that are of low rank.

Each effect has `changed`, which returns rows of the adapted weight for rows of W, both float64 [n, in]. All tensors are
float64 and on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reflora_cli.adapters.dora import NORM_FLOOR
from reflora_cli.combining.changes import LowRank


@dataclass(frozen=True)
class Added:
    """W + B A. change: B and A, with the scale in B, against the checkpoint's W."""

    change: LowRank

    def changed(self, rows: Tensor, at: slice) -> Tensor:
        """Return the rows after the change. at: which rows of W they are."""
        return rows + self.change.B[at] @ self.change.A


@dataclass(frozen=True)
class Rescaled:
    """The rows of W + B A, each with a norm of its own (Liu et al. 2024, arXiv 2402.09353). magnitude: the norms
    [out].
    """

    change: LowRank
    magnitude: Tensor

    def changed(self, rows: Tensor, at: slice) -> Tensor:
        """Return the rows after the change. at: which rows of W they are."""
        V = rows + self.change.B[at] @ self.change.A
        norms = torch.linalg.vector_norm(V, dim=1, keepdim=True).clamp_min(NORM_FLOOR)
        changed: Tensor = V * (self.magnitude[at, None] / norms)
        return changed


@dataclass(frozen=True)
class ScaledRows:
    """diag(l) W. gain: l [out]."""

    gain: Tensor

    def changed(self, rows: Tensor, at: slice) -> Tensor:
        """Return the rows after the change. at: which rows of W they are."""
        return rows * self.gain[at, None]


@dataclass(frozen=True)
class ScaledColumns:
    """W diag(l). gain: l [in]."""

    gain: Tensor

    def changed(self, rows: Tensor, at: slice) -> Tensor:
        """Return the rows after the change, whichever they are."""
        return rows * self.gain


@dataclass(frozen=True)
class Replaced:
    """Another weight. values: [out, in], in the dtype of the file."""

    values: Tensor

    def changed(self, rows: Tensor, at: slice) -> Tensor:
        """Return the rows after the change. at: which rows of W they are."""
        return self.values[at].double()


Effect = Added | Rescaled | ScaledRows | ScaledColumns | Replaced


@dataclass(frozen=True)
class Part:
    """What an adapter has of one module, or of one parameter of the base.

    module: its path. effect: what it makes of the weight. pair: the factors that were trained, without their scale and
    without an offset of the base; None for layers that have no such pair. scale: theirs. offset_rank: how many ranks of
    the change are an offset of the base.
    """

    module: str
    effect: Effect
    pair: LowRank | None = None
    scale: float | None = None
    offset_rank: int = 0

    @property
    def change(self) -> LowRank | None:
        """The part of the change that is of low rank, with the scale in B; None where there is none."""
        return self.effect.change if isinstance(self.effect, Added | Rescaled) else None

    @property
    def shape(self) -> tuple[int, int] | None:
        """The shape (out, in) of the weight, as far as the adapter's file says it."""
        match self.effect:
            case Added(change) | Rescaled(change, _):
                return change.shape
            case Replaced(values):
                return values.shape[0], values.shape[1]
            case _:
                return None

    @property
    def without_low_rank(self) -> str:
        """Why the change has no singular values here, or why they are those of a part of it; empty where it has."""
        match self.effect:
            case Added():
                return ""
            case Rescaled():
                return "rescaled rows are not a change of low rank: singular values and subspaces are those of s B A"
            case Replaced():
                return "a weight of the base was trained, which is not a change of low rank: no singular values"
            case _:
                return "scaled rows or columns are not a change of low rank: no singular values"
