"""The adapted products as single autograd functions.

Composed of ordinary operations, a low-rank update costs a tensor of the output's size for B A x, another for the sum,
and the same again backward. Here it is added in place to the frozen product, and what is kept for the backward pass is
x and A x [n, r]; x only where A is trained. Everything runs in the activations' dtype; the factors, kept in float32,
are cast when they are used. Second derivatives are not defined.

Inputs and outputs are matrices [n, in] and [n, out]: the layers reshape outside, because autograd lets nobody change in
place what is a view made inside a function, and some models change what their linear layers return.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from reflora_cli.adapters.frozen import FrozenWeight, autocast_dtype
from reflora_cli.adapters.layer import flat


class ScaledSum(NamedTuple):
    """What W + s B A has besides its factors: the scale s and the frozen weight W."""

    scale: float
    frozen: FrozenWeight


class NormedSum(NamedTuple):
    """What diag(m / n) (W + s B A) has besides what is trained: the norms n [out], float32, of the rows of W + s B A;
    the scale s; the frozen weight W.
    """

    norms: Tensor
    scale: float
    frozen: FrozenWeight


def scaled_sum(x: Tensor, dropout: nn.Dropout, A: Tensor, B: Tensor, weight: ScaledSum) -> Tensor:
    """Return W x + b + s B A drop(x) [..., out] for x [..., in], in the dtype of autocast. A: [r, in], B: [out, r]."""
    if torch.compiler.is_compiling():
        # A compiler fuses the sum itself and keeps no more for the backward pass than the function below.
        x = x.to(autocast_dtype(x))
        plain: Tensor = weight.frozen(x)
        return plain + low_rank_product(dropout(x), A, B, weight.scale)
    rows = flat(x.to(autocast_dtype(x)))
    dropped = dropout(rows) if dropout.training and dropout.p > 0 else None
    apply: Callable[..., Tensor] = LoRAFunction.apply
    return apply(rows, dropped, A, B, weight).view(*x.shape[:-1], -1)


def low_rank_product(x: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """Return s B A x [..., out] for x [..., in], of ordinary operations. A: [r, in], B: [out, r]."""
    return F.linear(F.linear(x, A.to(x.dtype)), B.to(x.dtype)) * scale


class LoRAFunction(torch.autograd.Function):
    """x [n, in], d [n, in] -> W x + b + s B A d [n, out]; d is x itself (None), or x after dropout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor | None, A: Tensor, B: Tensor, weight: ScaledSum) -> Tensor:
        scale, frozen = weight
        kept = x if d is None else d
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = frozen(x)
            h = kept @ A.to(x.dtype).T
            y.addmm_(h, B.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(kept if ctx.needs_input_grad[2] else None, h, A, B)
        ctx.scale, ctx.frozen, ctx.shared = scale, frozen, d is None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        kept, h, A, B = ctx.saved_tensors
        (g,) = upstream
        gh = few_columns(g, B.to(g.dtype)).mul_(ctx.scale)
        gA, gB = factor_gradients(ctx.needs_input_grad[2:4], g, gh, kept, h, ctx.scale)
        gx = ctx.frozen.transposed_product(g) if ctx.needs_input_grad[0] else None
        gd = None
        if ctx.shared and gx is not None:
            gx.addmm_(gh, A.to(g.dtype))
        elif ctx.needs_input_grad[1]:
            gd = gh @ A.to(g.dtype)
        return gx, gd, gA, gB, None


class DoRAFunction(torch.autograd.Function):
    """x [n, in] -> c (W x + s B A x) + b [n, out] with c = m / n [out], n constant (section 4.3 of the paper).

    The gradient of m needs v = V x = W x + s B A x. In float32, and wherever there is no bias, it is computed from
    the output, v = (y - b) / c, so that no second tensor of its size is kept; a row whose c is zero then gives m no
    gradient. In half precision a large bias would cancel all digits of v, so v is kept itself.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, m: Tensor, weight: NormedSum) -> Tensor:
        norms, scale, frozen = weight
        with torch.autocast(x.device.type, enabled=False):
            h = x @ A.to(x.dtype).T
            v = frozen.product(x).addmm_(h, B.to(x.dtype).T, alpha=scale)
            gain = (m / norms).to(v.dtype)
            ctx.witness = None
            if frozen.bias is not None and v.dtype.itemsize < 4:
                y = torch.addcmul(frozen.bias.to(v.dtype), v, gain)
                kept = v
            else:
                y = v.mul_(gain)
                if frozen.bias is not None:
                    y.add_(frozen.bias.to(y.dtype))
                kept, ctx.witness = y.data, None if y.is_inference() else Witness(y)
        ctx.save_for_backward(x, h, A, B, m, norms, kept)
        ctx.scale, ctx.frozen = scale, frozen
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, h, A, B, m, norms, kept = ctx.saved_tensors
        (g,), gain, bias = upstream, m / norms, ctx.frozen.bias
        gm = None
        if ctx.needs_input_grad[3] and ctx.witness is None:
            gm = column_sums(g, kept) / norms
        elif ctx.needs_input_grad[3] and ctx.witness.has_changed():
            gm = column_sums(g, ctx.frozen.product(x).addmm_(h, B.to(x.dtype).T, alpha=ctx.scale)) / norms
        elif ctx.needs_input_grad[3]:
            total = column_sums(g, kept)
            total = total if bias is None else total - g.sum(dim=0, dtype=torch.float32) * bias.float()
            gm = torch.where(gain == 0, 0.0, total / torch.where(gain == 0, 1.0, gain)) / norms
        g = g * gain.to(g.dtype)
        gh = few_columns(g, B.to(g.dtype)).mul_(ctx.scale)
        gA, gB = factor_gradients(ctx.needs_input_grad[1:3], g, gh, x, h, ctx.scale)
        gx = ctx.frozen.transposed_product(g).addmm_(gh, A.to(g.dtype)) if ctx.needs_input_grad[0] else None
        return gx, gA, gB, gm, None


class Witness:
    """A record of a tensor that tells whether the tensor was changed in place since, without keeping its memory.

    Autograd would refuse the backward pass of a function whose saved output was changed. An empty tensor that shares
    the output's version counter sees the change, and what it would have told is computed again.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.seen = tensor.detach()
        self.seen.data = tensor.new_empty(0)  # takes other memory, and keeps the counter
        self.version = self.seen._version

    def has_changed(self) -> bool:
        return self.seen._version != self.version


def column_sums(g: Tensor, v: Tensor) -> Tensor:
    """Return the sum over n of g_nj v_nj, float32 [out]. g, v: [n, out]."""
    return (g * v).sum(dim=0, dtype=torch.float32)


def factor_gradients(
    needed: tuple[bool, bool], g: Tensor, gh: Tensor, seen: Tensor | None, h: Tensor, scale: float
) -> tuple[Tensor | None, Tensor | None]:
    """Return the gradients of A and B in float32, None for one that is not needed.

    g: [n, out]; gh: s g B [n, r]; seen: the rows that A multiplied [n, in], None where A needs no gradient; h: their
    products with A [n, r].
    """
    gA = (gh.T @ seen).float() if needed[0] and seen is not None else None
    gB = tall(g, h).float().mul_(scale) if needed[1] else None
    return gA, gB


# A CPU's libraries are slow where the result has few columns and the second factor has them as its rows: at rank 8 and
# 1536 columns of g, 2.4 times slower than with that factor transposed in memory, and 6 times where g is transposed too.


def few_columns(g: Tensor, B: Tensor) -> Tensor:
    """Return g B [n, r], for g [n, out] and B [out, r]."""
    return g @ B.T.contiguous().T if g.device.type == "cpu" else g @ B


def tall(g: Tensor, h: Tensor) -> Tensor:
    """Return g^T h [out, r], for g [n, out] and h [n, r]."""
    return (h.T @ g).T.contiguous() if g.device.type == "cpu" else g.T @ h
