"""The dense weight of one product at a time, made on a CPU in memory that the next product uses again.

A dense weight in new memory for every product leaves gaps in the C library's heap into which the next one does not
fit. bitsandbytes writes to memory that is given to it in its compiled library alone, so that is called here: only in
the versions whose function is known, and for weights that it reads rightly. All others are made in new memory.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

KNOWN = ("0.50.",)
"""The beginnings of the versions of bitsandbytes whose function takes these arguments."""
SUFFIXES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
LARGEST_BLOCK = 1024
"""The largest block of weights with a common scale that the function reads precisely."""


class Workspace(threading.local):
    """Memory for one dense weight of each dtype, as large as the largest so far; each thread has its own."""

    def __init__(self) -> None:
        self._held: dict[torch.dtype, Tensor] = {}

    def matrix(self, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
        """Return a matrix [rows, columns] on the CPU, with what stood there before. It is valid until the next call."""
        size = rows * columns
        if dtype not in self._held or self._held[dtype].numel() < size:
            self._held.pop(dtype, None)  # given back before the larger one is taken
            self._held[dtype] = torch.empty(size, dtype=dtype, device="cpu")
        return self._held[dtype][:size].view(rows, columns)


WORKSPACE = Workspace()


def lent(frozen: Any) -> Tensor:
    """Return the dense weight [out, in] of a `QuantizedWeight` in its dtype, valid until the next call in this thread.

    It is in new memory where autograd could keep it, and where the weight is not a plain one of four bits on the CPU.
    """
    if is_recorded() or torch.is_grad_enabled() or type(frozen.weight) is not Tensor or not is_writable(frozen):
        made: Tensor = frozen.dequantized()
        return made
    room = WORKSPACE.matrix(frozen.out_features, frozen.in_features, frozen.dtype)
    write(frozen, room)
    return room


def is_writable(frozen: Any) -> bool:
    """Whether a weight's blocks are such that its dense form can be written to given memory."""
    if frozen.kind == "int8" or not is_known():
        return False
    in_whole_blocks = frozen.in_features % frozen.block == 0 and frozen.block <= LARGEST_BLOCK
    return in_whole_blocks and frozen.weight.is_cpu and frozen.weight.is_contiguous() and frozen.dtype in SUFFIXES


def is_recorded() -> bool:
    """Whether operations are recorded rather than done: what is written past torch would be missing among them."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return type(torch.empty(0, device="cpu")) is not Tensor  # under a mode that makes fake tensors


@cache
def is_known() -> bool:
    """Whether the installed bitsandbytes has the function with these arguments."""
    try:
        installed = version("bitsandbytes")
    except PackageNotFoundError:
        return False
    return installed.startswith(KNOWN) and all(function_of(kind, own) is not None for kind in ("nf4", "fp4")
                                               for own in SUFFIXES)  # fmt: skip


@cache
def function_of(kind: str, dtype: torch.dtype) -> Any:
    """Return the function of bitsandbytes' compiled library for a kind of codes and a dtype; None if it lacks it."""
    from bitsandbytes import cextension

    try:
        found = ctypes.CDLL(cextension.lib._lib._name)[f"cdequantize_blockwise_cpu_{kind}_{SUFFIXES[dtype]}"]
    except (AttributeError, OSError):
        return None
    found.argtypes = (*(ctypes.c_void_p,) * 3, *(ctypes.c_longlong,) * 3)
    found.restype = None
    return found


def write(frozen: Any, room: Tensor) -> None:
    """Write the dense form of a weight in four bits to a matrix [out, in], with the bits of its `dequantized`."""
    absmax = scales_of(frozen)
    addresses = (frozen.weight.data_ptr(), absmax.data_ptr(), room.data_ptr())
    function_of(frozen.kind, frozen.dtype)(*addresses, frozen.block, frozen.out_features, frozen.in_features)


def scales_of(frozen: Any) -> Tensor:
    """Return the scales of a weight's blocks, float32."""
    if frozen.nested_block is None:
        own: Tensor = frozen.absmax.float()
        return own
    from bitsandbytes.functional import dequantize_blockwise

    nested: Tensor = dequantize_blockwise(
        frozen.absmax, absmax=frozen.nested_absmax, code=frozen.nested_code, blocksize=frozen.nested_block
    )
    return nested.add_(frozen.offset).float()
