"""Let a computation that is traced on a CPU keep what a GPU's kernels keep for the backward pass.

What differs: dropout keeps a mask of one byte for each element instead of a float32 factor; attention with dropout is
one kernel on a GPU, which does not keep the probabilities; and under autocast, layer norms and softmax run in float32
there (torch's list of operations that autocast to float32 on CUDA).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

IN_FLOAT32 = (F.layer_norm, F.softmax, torch.softmax, Tensor.softmax)


class GpuKernels(TorchFunctionMode):
    """Replaces the operations that keep something else on a GPU. half: whether passes run under autocast."""

    def __init__(self, *, half: bool) -> None:
        super().__init__()
        self.half = half

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is F.dropout:
            return dropped(*args, **given)
        if func is F.scaled_dot_product_attention:
            # Its kernel draws from a seed; without dropout the CPU's keeps what the GPU's does.
            return func(*args[:4], **{**given, "dropout_p": 0.0})
        if self.half and func in IN_FLOAT32 and args[0].dtype.itemsize == 2:
            return func(args[0].float(), *args[1:], **given)
        return func(*args, **given)


def dropped(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return the input after dropout by the operation of a GPU; the arguments are those of torch's function."""
    del inplace
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input
