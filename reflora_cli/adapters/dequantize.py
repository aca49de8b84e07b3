"""A quantized weight as the tensors and numbers that it is stored in, and the dense matrix made of them.

The products with it are operators that a compiler takes as they are. Traced instead, the two passes would share one
dense W: the compiler finds the same expression twice and keeps its value from the forward pass to the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Stored(NamedTuple):
    """How W [out, in] is stored.

    tensors: the codes, and what else they need: for int8 the scales of rows; for four bits the scales of blocks and the
    table of levels, then, where the scales are quantized too, theirs and the offset. sizes: out, in, the number of
    weights in a block and, where the scales are quantized too, the number of scales in a block of those. kind: nf4, fp4
    or int8. dtype: that of the dense matrix.
    """

    tensors: list[Tensor]
    sizes: list[int]
    kind: str
    dtype: torch.dtype


def dense(stored: Stored) -> Tensor:
    """Return W [out, in] in its dtype, in new memory."""
    return eight_bit(stored) if stored.kind == "int8" else four_bit(stored)


def eight_bit(stored: Stored) -> Tensor:
    """Return W of whole numbers with a scale for each row."""
    codes, row_scale = stored.tensors
    return (codes.float() * (row_scale[:, None] / 127)).to(stored.dtype)


def four_bit(stored: Stored) -> Tensor:
    """Return W of pairs of codes, whose blocks share a scale."""
    from bitsandbytes.functional import dequantize_4bit

    (rows, columns, block), state = stored.sizes[:3], quant_state(stored)
    if columns % block and rows * columns % block == 0:
        # Blocks run on from row to row; on the CPU bitsandbytes (0.50) gives each row scales of its own instead.
        state.shape = torch.Size((rows * columns // block, block))
    found: Tensor = dequantize_4bit(stored.tensors[0], state)
    return found.view(rows, columns)


def quant_state(stored: Stored) -> Any:
    """Return bitsandbytes' `QuantState` of a weight in four bits, on the same tensors."""
    from bitsandbytes import functional

    make: Callable[..., Any] = functional.QuantState
    (_, absmax, code, *nested), (rows, columns, block, *nested_block) = stored.tensors, stored.sizes
    shape = torch.Size((rows, columns))
    if not nested:
        return make(absmax, shape, code, block, stored.kind, stored.dtype)
    nested_absmax, nested_code, offset = nested
    inner = make(nested_absmax, None, nested_code, nested_block[0], None, torch.float32)
    return make(absmax, shape, code, block, stored.kind, stored.dtype, offset=offset, state2=inner)


@torch.library.custom_op("reflora::quantized_product", mutates_args=())
def quantized_product(x: Tensor, tensors: list[Tensor], sizes: list[int], kind: str, dtype: torch.dtype) -> Tensor:
    """Return W x [..., out] for x [..., in], in x's dtype. The other arguments are the fields of `Stored`."""
    return F.linear(x, dense(Stored(tensors, sizes, kind, dtype)).to(x.dtype)).contiguous()


@quantized_product.register_fake
def _(x: Tensor, tensors: list[Tensor], sizes: list[int], kind: str, dtype: torch.dtype) -> Tensor:
    return x.new_empty((*x.shape[:-1], sizes[0]))


@torch.library.custom_op("reflora::quantized_transposed_product", mutates_args=())
def quantized_transposed_product(
    g: Tensor, tensors: list[Tensor], sizes: list[int], kind: str, dtype: torch.dtype
) -> Tensor:
    """Return g W [..., in] for g [..., out], in g's dtype: the backward pass of `quantized_product`."""
    return (g @ dense(Stored(tensors, sizes, kind, dtype)).to(g.dtype)).contiguous()


@quantized_transposed_product.register_fake
def _(g: Tensor, tensors: list[Tensor], sizes: list[int], kind: str, dtype: torch.dtype) -> Tensor:
    return g.new_empty((*g.shape[:-1], sizes[1]))


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Keep what the backward pass needs: only what is stored of W."""
    _, tensors, *ctx.rest = inputs
    ctx.save_for_backward(*tensors)


def backward(ctx: Any, g: Tensor) -> tuple[Any, ...]:
    """Return the gradients of the arguments of `quantized_product`, of which only x has one."""
    tensors = list(ctx.saved_tensors)
    return quantized_transposed_product(g, tensors, *ctx.rest), [None] * len(tensors), None, None, None


quantized_product.register_autograd(backward, setup_context=keep)
