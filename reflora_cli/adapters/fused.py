"""The adapted products as single autograd functions.

Composed of ordinary operations, a low-rank update costs a tensor of the output's size for B A x, another for the sum,
and the same again backward. Here it is added in place to the frozen product, and what is kept for the backward pass is
x, which the layers around it keep anyway, and A x [n, r]. Everything runs in the activations' dtype; the factors, kept
in float32, are cast when they are used. Second derivatives are not defined.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reflora_cli.adapters.frozen import FrozenWeight

FrozenPart = tuple[float, FrozenWeight]
"""The scale s and W."""
NormedPart = tuple[Tensor, float, FrozenWeight]
"""The row norms n [out] of W + s B A, float32; s; W."""


class LoRAFunction(torch.autograd.Function):
    """x [..., in], d [..., in] -> W x + b + s B A d [..., out]; d is x itself, or x after dropout."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, d: Tensor | None, A: Tensor, B: Tensor, layer: FrozenPart) -> Tensor:
        scale, frozen = layer
        kept = x if d is None else d
        with torch.autocast(x.device.type, enabled=False):
            y: Tensor = frozen(x)
            h = flat(kept) @ A.to(x.dtype).T
            y.view(-1, y.shape[-1]).addmm_(h, B.to(x.dtype).T, alpha=scale)
        ctx.save_for_backward(kept, h, A, B)
        ctx.scale, ctx.frozen, ctx.shared = scale, frozen, d is None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        kept, h, A, B = ctx.saved_tensors
        g = flat(upstream[0])
        gh = (g @ B.to(g.dtype)).mul_(ctx.scale)
        gA, gB = factor_gradients(ctx.needs_input_grad[2:4], g, gh, (kept, h), ctx.scale)
        gx = ctx.frozen.transposed_product(g) if ctx.needs_input_grad[0] else None
        gd = None
        if ctx.shared and gx is not None:
            gx.addmm_(gh, A.to(g.dtype))
        elif ctx.needs_input_grad[1]:
            gd = (gh @ A.to(g.dtype)).view(kept.shape)
        return None if gx is None else gx.view(kept.shape), gd, gA, gB, None


class DoRAFunction(torch.autograd.Function):
    """x [..., in] -> c (W x + s B A x) + b [..., out] with c = m / n [out], n constant (section 4.3 of the paper).

    The gradient of m needs V x, which is the output less the bias, over c: the output is kept, not a second tensor of
    its size. A row whose c is zero gives m no gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, m: Tensor, layer: NormedPart) -> Tensor:
        norms, scale, frozen = layer
        with torch.autocast(x.device.type, enabled=False):
            y = frozen.product(x)
            h = flat(x) @ A.to(x.dtype).T
            y.view(-1, y.shape[-1]).addmm_(h, B.to(x.dtype).T, alpha=scale)
            y.mul_((m / norms).to(y.dtype))
            if frozen.bias is not None:
                y.add_(frozen.bias.to(y.dtype))
        ctx.save_for_backward(x, h, A, B, m, norms, y)
        ctx.scale, ctx.frozen = scale, frozen
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, h, A, B, m, norms, y = ctx.saved_tensors
        g, gain = flat(upstream[0]), m / norms
        gm = magnitude_gradient(g, flat(y), gain, norms, ctx.frozen.bias) if ctx.needs_input_grad[3] else None
        g = g * gain.to(g.dtype)
        gh = (g @ B.to(g.dtype)).mul_(ctx.scale)
        gA, gB = factor_gradients(ctx.needs_input_grad[1:3], g, gh, (x, h), ctx.scale)
        gx = None
        if ctx.needs_input_grad[0]:
            gx = ctx.frozen.transposed_product(g).addmm_(gh, A.to(g.dtype)).view(x.shape)
        return gx, gA, gB, gm, None


def magnitude_gradient(g: Tensor, y: Tensor, gain: Tensor, norms: Tensor, bias: Tensor | None) -> Tensor:
    """sum over n of g_nj v_nj / n_j, with v = (y - b) / c; float32 [out]. g, y: [n, out]."""
    total = (g * y).sum(dim=0, dtype=torch.float32)
    if bias is not None:
        total = total - g.sum(dim=0, dtype=torch.float32) * bias.float()
    return torch.where(gain == 0, 0.0, total / torch.where(gain == 0, 1.0, gain)) / norms


def factor_gradients(
    needed: tuple[bool, bool], g: Tensor, gh: Tensor, kept: tuple[Tensor, Tensor], scale: float
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of A and B in float32. g: [n, out]; gh: s B^T g [n, r]; kept: what A saw [..., in], and its product."""
    seen, h = kept
    gA = (gh.T @ flat(seen)).float() if needed[0] else None
    gB = (g.T @ h).float().mul_(scale) if needed[1] else None
    return gA, gB


def flat(x: Tensor) -> Tensor:
    """[..., k] -> [n, k], a view where it can be."""
    return x.reshape(-1, x.shape[-1])
