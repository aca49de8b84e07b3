"""StelLA: y = W x + b + s U S V^T drop(x), where U [out, r] and V [in, r] have orthonormal columns.

Li, Sajadmanesh, Li, Lyu 2025, arXiv 2510.01938. As in a singular value decomposition, V and U say which subspaces of
inputs and outputs are used, and S how strongly: r numbers, its diagonal, or a matrix [r, r]. Here V^T is called A
[r, in] and U is B [out, r]. That they stay orthonormal is the work of the update rule (`optim/stiefel.py`).

U and V begin as random frames, uniformly distributed, and S as a multiple of the identity. In the authors' code that is
the identity itself, and W stays as it is: the model then begins off its base, by s U V^T in each adapted weight.

S is absorbed for the outside: an adapter's file holds A and U S, which any reader of LoRA computes with. The forward
pass multiplies U S first too, so that a model that is read back computes the same to the bit.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.factors.pair import FactorPair, Role


@final
class StellaLinear(LowRankLayer):
    """A frozen weight with the update s B S A: rows of A and columns of B are orthonormal.

    S, float32: [r], its diagonal, or [r, r]. It is the identity at first, and then what `put_between` gives.
    """

    def __init__(self, frozen: FrozenWeight, pair: tuple[Tensor, Tensor], scale: float, dropout: float) -> None:
        super().__init__(frozen, pair, scale, dropout)
        self.S = self.factor(torch.ones(self.rank))

    def put_between(self, S: Tensor) -> None:
        """Take this S, [r] or [r, r]."""
        self.S = self.factor(S)

    def start_itself(self, draw: torch.Generator) -> None:
        """Let A have random orthonormal rows and B random orthonormal columns. draw: on the CPU."""
        A = torch.empty(self.rank, self.frozen.in_features)
        B = torch.empty(self.frozen.out_features, self.rank)
        self.begin(nn.init.orthogonal_(A, generator=draw), nn.init.orthogonal_(B, generator=draw))

    def left(self) -> Tensor:
        """Return B S [out, r]."""
        if self.S.ndim == 1:
            return self.B * self.S
        with torch.autocast(self.B.device.type, enabled=False):
            return self.B @ self.S

    def forward(self, x: Tensor) -> Tensor:
        return self.added(x)

    def merged(self) -> Tensor:
        return self.dense_sum()

    def pairs(self, name: str) -> list[FactorPair]:
        """Return none: the update is not a multiple of B A."""
        return []

    def roles(self) -> dict[str, Role]:
        return {"A": Role.FRAME, "B": Role.FRAME, "S": Role.DECAYED}


def multiple_of_identity(rank: int, size: float, is_diagonal: bool) -> Tensor:
    """Return S where it begins: [r] if it is diagonal, else [r, r]."""
    diagonal = torch.full((rank,), size)
    return diagonal if is_diagonal else torch.diag(diagonal)
