"""Choose the device and the dtype in which forward passes run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from reflora_cli.methods.settings import Dtype

DTYPES = {Dtype.FLOAT32: torch.float32, Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16}


@dataclass(frozen=True)
class Compute:
    """Where and how forward passes run: the device, the base's dtype, the rank of this process and the number of
    processes.

    sharded: all processes take part in each forward pass, each holding a part of the base.
    """

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    processes: int = 1
    sharded: bool = False

    @property
    def scoring(self) -> tuple[int, int]:
        """This process's rank and the number of processes among which rows are shared out for scoring.

        With a sharded base every process scores all rows, since all must run the same passes.
        """
        return (0, 1) if self.sharded else (self.rank, self.processes)

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def pick_device() -> torch.device:
    """Return the accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def resolve_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """Return the base's dtype; `auto` is bfloat16 on a GPU that computes in it and float32 elsewhere, also on a CPU
    that is faster in bfloat16: so a recipe's scores do not depend on the kind of CPU.
    """
    if dtype is not Dtype.AUTO:
        return DTYPES[dtype]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


def is_emulated(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the device emulates products in this dtype, many times slower than in float32, as CPUs without AVX-512
    do; few of those with it multiply in float16.
    """
    if device.type != "cpu" or dtype.itemsize != 2:
        return False
    asked = "_is_mkldnn_bf16_supported" if dtype is torch.bfloat16 else "_is_mkldnn_fp16_supported"
    is_supported: Callable[[], bool] = getattr(torch.ops.mkldnn, asked, lambda: True)
    return not is_supported()


@contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Run the forward pass as training does: autocast to a half-precision base's dtype, plain float32 otherwise."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
        yield
