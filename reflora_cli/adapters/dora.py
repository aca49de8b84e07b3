"""DoRA, weight-decomposed LoRA: W_eff = diag(m / n) V with V = W + s B A and n_j = ||V_j||, the norm of row j.

Liu et al. 2024, arXiv 2402.09353. One norm per output neuron (a row of the [out, in] weight), as the authors' code and
PEFT compute it; the paper's text says columns. The norm is taken as a constant in the backward pass (section 4.3).

We differ in how n is found: PEFT forms the dense V in every forward pass; here, with the first term computed once,

    n^2 = rowsum(W * W) + 2 s rowsum((W A^T) * B) + s^2 rowsum((B A A^T) * B)

which needs no temporary larger than [out, r]. A row of zeros stays zero instead of becoming infinite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Self, final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import FrozenWeight, autocast_dtype
from reflora_cli.adapters.fused import DoRAFunction, NormedSum
from reflora_cli.adapters.layer import flat
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.factors.pair import Role

FILE_MAGNITUDE = "lora_magnitude_vector"
NORM_FLOOR = 1e-12
"""Below this a row counts as zero: far under any trained row's norm, and its square is still a normal float32."""


@final
class DoRALinear(LowRankLayer):
    """LoRA's parts plus the magnitude m [out], float32, which starts at the row norms of W + s B A.

    With dropout on the update's input the authors' semantics drop inputs of W too, which costs a second product with W:
    y = W x + b + (c - 1) W drop(x) + c s B A drop(x), where c = m / n.
    """

    row_square_sums: Tensor

    def __init__(self, frozen: FrozenWeight, pair: tuple[Tensor, Tensor], scale: float, dropout: float) -> None:
        super().__init__(frozen, pair, scale, dropout)
        self.register_buffer("row_square_sums", frozen.row_square_sums(), persistent=False)
        self._norms: tuple[tuple[int, ...], Tensor] | None = None
        self._given_norms: Tensor | None = None
        self.magnitude = nn.Parameter(self.row_norms())

    @classmethod
    def restored(
        cls, frozen: FrozenWeight, tensors: Mapping[str, Tensor], scale: float, dropout: float, offset_rank: int
    ) -> Self:
        layer = super().restored(frozen, tensors, scale, dropout, offset_rank)
        layer.magnitude.data = tensors[FILE_MAGNITUDE].to(layer.magnitude)
        return layer

    def begin(self, A: Tensor, B: Tensor) -> None:
        super().begin(A, B)
        self._norms = None

    def follow_base(self) -> None:
        self.row_square_sums = self.frozen.row_square_sums()
        self._norms = None

    def follow_start(self) -> None:
        self.magnitude.data = self.row_norms()

    def tensors(self) -> dict[str, Tensor]:
        return {**super().tensors(), FILE_MAGNITUDE: self.magnitude}

    def roles(self) -> dict[str, Role]:
        return {**super().roles(), "magnitude": Role.UNDECAYED}

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """Return n [out], float32 throughout: the norm of every row of W + s B A."""
        with torch.autocast(self.A.device.type, enabled=False):
            cross = (self.frozen.row_products(self.A) * self.B).sum(dim=1)
            square = ((self.B @ (self.A @ self.A.T)) * self.B).sum(dim=1)
            squares: Tensor = self.row_square_sums + 2 * self.scale * cross + self.scale**2 * square
            norms: Tensor = squares.clamp_min_(NORM_FLOOR**2).sqrt_()
        return norms

    def current_norms(self) -> Tensor:
        """Return `row_norms`, computed once for each state of the factors: micro-batches and recomputation share them.

        An optimizer's step, or loading, changes the factors' version or place. What is written through `.data` changes
        neither: after that, `_norms` must be set to None.
        """
        state = (self.A._version, self.B._version, *place(self.A), *place(self.B))
        if self._norms is None or self._norms[0] != state:
            with torch.inference_mode(mode=False):  # the next training step needs them too
                self._norms = state, self.row_norms()
        return self._norms[1]

    def before_graph(self) -> None:
        self._given_norms = self.current_norms()

    def after_graph(self) -> None:
        self._given_norms = None

    def traced_norms(self) -> Tensor:
        """Return the norms for a graph: those that were computed before it, or else a part of it."""
        return self.row_norms() if self._given_norms is None else self._given_norms

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(autocast_dtype(x))
        if not torch.compiler.is_compiling() and not (self.training and self.dropout.p > 0):
            apply: Callable[..., Tensor] = DoRAFunction.apply
            weight = NormedSum(self.current_norms(), self.scale, self.frozen)
            return apply(flat(x), self.A, self.B, self.magnitude, weight).view(*x.shape[:-1], -1)
        gain = self.magnitude / (self.traced_norms() if torch.compiler.is_compiling() else self.current_norms())
        if self.dropout.p > 0 and self.training:
            dropped = self.dropout(x)
            y: Tensor = self.frozen(x)
            return y + (gain - 1).to(y.dtype) * self.frozen.product(dropped) + gain.to(y.dtype) * self.low_rank(dropped)
        y = self.frozen.product(x) + self.low_rank(x)
        y = y * gain.to(y.dtype)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    def merged(self) -> Tensor:
        V = self.dense_sum()
        norms: Tensor = torch.linalg.vector_norm(V, dim=1, keepdim=True).clamp_min_(NORM_FLOOR)
        return V * (self.magnitude.detach()[:, None] / norms)


def place(tensor: Tensor) -> tuple[int, int]:
    """Return where the tensor's values lie: its storage and the offset in it. Unlike an address, both are there for a
    tensor without values too.
    """
    return int(tensor.untyped_storage()._cdata), int(tensor.storage_offset())
