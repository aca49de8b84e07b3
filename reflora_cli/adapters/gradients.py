"""The gradients of frozen weights: what full fine-tuning would do first, seen without a gradient of any parameter.

With the inputs X [n, in] of a module and the gradients D [n, out] of the loss with respect to its outputs, the loss has
the gradient with respect to W

    G = D^T X    [out, in]

which needs neither W, so that the base may be quantized, nor a place beside W. Each G is made while the backward pass
goes through its module, and added to a sum on the CPU: the device holds one of them at a time, and the machine's memory
4 bytes for each entry of an adapted weight. All adapters are zero, so the weight that is computed with is the base's,
with DoRA's layers too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reflora_cli.adapters.layer import flat
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.sight import Sight, first_passes
from reflora_cli.ground.errors import InputError, Problem


def weight_gradients(layers: Mapping[str, LowRankLayer], kind: str, rows: int, sight: Sight) -> dict[str, Tensor]:
    """Return the gradient [out, in] of the rows' summed loss with respect to each layer's W, float32 on the CPU.

    A layer that no gradient reaches has none. kind: the start's. rows: how many training rows are looked at. The
    gradients of parameters stay as they are. Raises InputError if there are no rows, and for gradients that are not
    finite.
    """
    sums: dict[str, Tensor] = {}

    def adding_to(name: str) -> Callable[[Tensor], None]:
        def add(G: Tensor) -> None:
            sums[name] = sums[name].add_(G) if name in sums else G

        return add

    def watching(add: Callable[[Tensor], None]) -> Callable[..., Tensor]:
        apply: Callable[..., Tensor] = Watched.apply
        return lambda _, inputs, output: apply(output, inputs[0], add)

    handles = [layer.register_forward_hook(watching(adding_to(name))) for name, layer in layers.items()]
    try:
        for one in first_passes(sight, kind, rows):
            with one.loss() as loss:
                # Only the way to the factors is taken: their gradients are dropped, and no parameter keeps one.
                torch.autograd.grad(loss, [layer.B for layer in layers.values()], allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    bad = [name for name, G in sums.items() if not G.isfinite().all()]
    if bad:
        what, remedy = "the gradient of the loss is not finite", "set model.dtype to bfloat16 or float32"
        raise InputError(Problem(what, "method.start", f"at {bad[0]}", remedy=remedy))
    return {name: G for name, G in sums.items() if G.any()}


class Watched(torch.autograd.Function):
    """y [..., out], x [..., in] -> y; backward, the gradient D of y makes D^T x [out, in], which is given away.

    x is kept as autograd keeps tensors, so that it is computed again where activations are recomputed.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, add: Callable[[Tensor], None]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.add = add
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (D,), (x,) = upstream, ctx.saved_tensors
        with torch.autocast(D.device.type, enabled=False):
            ctx.add((flat(D).float().T @ flat(x).float()).cpu())
        return D, None, None
