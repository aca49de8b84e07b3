"""VeRA: y = W x + bias + b * (B (d * (A drop(x)))), products of vectors by entries.

Kopiczko, Blankevoort, Asano 2023, arXiv 2310.11454. A [R, i] and B [o, R] are random, frozen, and the same for all
adapted modules: i and o are the largest in and out among them, and a module W [out, in] takes the first `in` columns of
A and the first `out` rows of B. Only the vectors d [R] and b [out] are trained. b starts at zero, so that the adapted
model equals its base, and d at a small constant. There is no factor s.

Both gradients come from M = g^T (A x) [out, R], for g [n, out] the gradient of y: that of b is the sum over R of
M * B * d, and that of d the sum over out of M * B * b. So A x [n, R] is all that is kept for the backward pass, and
nothing is computed for A and B.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from reflora_cli.adapters.frozen import FrozenWeight, autocast_dtype
from reflora_cli.adapters.layer import AdapterLayer, flat
from reflora_cli.factors.pair import FactorPair, Role

FILE_D, FILE_B = "vera_lambda_d", "vera_lambda_b"
FILE_PROJECTIONS = ("base_model.vera_A", "base_model.vera_B")
"""The keys of A and B, which an adapter's file holds once."""


class Projections(nn.Module):
    """A [R, i] and B [o, R], float32: all layers of an adapter hold this one module, so that moving it moves it once.

    They are copied: products round differently where a tensor read from a file is not aligned.
    """

    A: Tensor
    B: Tensor

    def __init__(self, A: Tensor, B: Tensor, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("A", A.detach().to(device, torch.float32, copy=True), persistent=False)
        self.register_buffer("B", B.detach().to(device, torch.float32, copy=True), persistent=False)


def drawn(seed: int, rank: int, weights: Iterable[FrozenWeight]) -> Projections:
    """Return the projections for these weights: A, then B, from one CPU generator, to the bit as PEFT draws them.

    Entries are uniform up to sqrt(6 / columns) (He et al. 2015, for gain sqrt(2)).
    """
    weights = list(weights)
    generator = torch.Generator().manual_seed(seed)
    A = kaiming(rank, max(own.in_features for own in weights), generator)
    B = kaiming(max(own.out_features for own in weights), rank, generator)
    return Projections(A, B, weights[0].weight.device)


def kaiming(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Return a matrix with entries uniform up to sqrt(3) sqrt(2) / sqrt(columns), rounded in this order."""
    bound = math.sqrt(3.0) * (math.sqrt(2) / math.sqrt(columns))
    return torch.empty(rows, columns).uniform_(-bound, bound, generator=generator)


@final
class VeRALinear(AdapterLayer):
    """A frozen W [out, in] with trained vectors d [R] and b [out], float32, around shared projections.

    Dropout acts on the update's input.
    """

    peft_type: ClassVar[str] = "VERA"

    def __init__(
        self, frozen: FrozenWeight, projections: Projections, vectors: tuple[Tensor, Tensor], dropout: float
    ) -> None:
        """vectors: d [R] and b [out], which are copied."""
        super().__init__(frozen)
        self.projections = projections
        device = frozen.device
        self.d, self.b = (nn.Parameter(own.detach().to(device, torch.float32, copy=True)) for own in vectors)
        self.dropout = nn.Dropout(dropout)

    @property
    def A(self) -> Tensor:
        """The columns of the shared A that this weight takes [R, in]."""
        return self.projections.A[:, : self.frozen.in_features]

    @property
    def B(self) -> Tensor:
        """The rows of the shared B that this weight takes [out, R]."""
        return self.projections.B[: self.frozen.out_features]

    def forward(self, x: Tensor) -> Tensor:
        rows = flat(x.to(autocast_dtype(x)))
        dropped = self.dropout(rows) if self.training and self.dropout.p > 0 else None
        apply: Callable[..., Tensor] = VeRAFunction.apply
        y = apply(rows, dropped, self.d, self.b, RandomSum(self.A, self.B, self.frozen))
        return y.view(*x.shape[:-1], -1)

    @torch.no_grad()
    def merged(self) -> Tensor:
        return torch.addmm(self.frozen.dense(), self.b[:, None] * self.B, self.d[:, None] * self.A)

    def pairs(self, name: str) -> list[FactorPair]:
        return []

    def roles(self) -> dict[str, Role]:
        return {"d": Role.UNDECAYED, "b": Role.UNDECAYED}

    def tensors(self) -> dict[str, Tensor]:
        return {FILE_D: self.d, FILE_B: self.b}

    def shared(self) -> dict[str, Tensor]:
        return dict(zip(FILE_PROJECTIONS, (self.projections.A, self.projections.B), strict=True))

    def constants(self) -> dict[str, Tensor]:
        """Return the projections: a run goes on with those that it began with, whatever a later torch would draw."""
        return {"projections.A": self.projections.A, "projections.B": self.projections.B}


class RandomSum(NamedTuple):
    """What the adapted weight has besides its vectors: A [R, in] and B [out, R], and the frozen weight W."""

    A: Tensor
    B: Tensor
    frozen: FrozenWeight


class VeRAFunction(torch.autograd.Function):
    """x [n, in], p [n, in] -> W x + bias + b * (B (d * (A p))) [n, out]; p is x itself (None), or x after dropout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor | None, d: Tensor, b: Tensor, weight: RandomSum) -> Tensor:
        A, B, frozen = weight
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = frozen(x)
            h = (x if p is None else p) @ A.to(x.dtype).T
            y.addmm_(h * d.to(x.dtype), (b[:, None] * B).to(x.dtype).T)
        ctx.save_for_backward(h, d, b)
        ctx.weight, ctx.is_shared = weight, p is None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        h, d, b = ctx.saved_tensors
        (g,), (A, B, frozen) = upstream, ctx.weight
        gx = gp = gd = gb = None
        with torch.autocast(g.device.type, enabled=False):
            if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
                M = (g.T @ h).float().mul_(B)
                gd, gb = M.T @ b, M @ d
            if ctx.needs_input_grad[0]:
                gx = frozen.transposed_product(g)
            if (gx is not None and ctx.is_shared) or ctx.needs_input_grad[1]:
                gh = (g @ (b[:, None] * B).to(g.dtype)).mul_(d.to(g.dtype))
                if gx is not None and ctx.is_shared:
                    gx.addmm_(gh, A.to(g.dtype))
                else:
                    gp = gh @ A.to(g.dtype)
        return gx, gp, gd, gb, None
