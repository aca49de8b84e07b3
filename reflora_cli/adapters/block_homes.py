"""Where those frozen weights of a model's blocks are kept that do not stay on its device: in host memory or in files.

The tensors of a block lie behind each other in one piece of memory, so that one copy brings them all to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor

from reflora_cli.ground.errors import InputError, Problem

ALIGNMENT = 512
"""The bytes to a multiple of which every tensor begins, as in torch's own memory: kernels round by alignment."""
ABSENT = {torch.uint8: 255, torch.int8: -128}
"""What stands for a code that is not on the device; for a number it is NaN."""


@dataclass(frozen=True)
class Part:
    """A tensor of a block: its place in bytes behind the beginning of the block's memory, its dtype and its shape."""

    begin: int
    dtype: torch.dtype
    shape: torch.Size

    def view(self, flat: Tensor) -> Tensor:
        """Return the tensor in the block's memory, uint8 [n]."""
        end = self.begin + self.dtype.itemsize * self.shape.numel()
        return flat[self.begin : end].view(self.dtype).view(self.shape)

    def absent(self, device: torch.device) -> Tensor:
        """Return what stands for the tensor while it is not on the device: of its shape, without memory."""
        value = float("nan") if self.dtype.is_floating_point else ABSENT[self.dtype]
        return torch.full((), value, dtype=self.dtype, device=device).expand(self.shape)


@dataclass(frozen=True)
class Layout:
    """How the tensors of a block lie behind each other, in so many bytes."""

    parts: tuple[Part, ...]
    size: int

    def views(self, flat: Tensor) -> list[Tensor]:
        """Return the tensors in the block's memory, uint8 [n]."""
        return [part.view(flat) for part in self.parts]


def layout_of(tensors: Sequence[Tensor]) -> Layout:
    """Return the layout of tensors in their order."""
    parts, end = [], 0
    for tensor in tensors:
        begin = -(-end // ALIGNMENT) * ALIGNMENT
        parts.append(Part(begin, tensor.dtype, tensor.shape))
        end = begin + tensor.dtype.itemsize * tensor.numel()
    return Layout(tuple(parts), end)


def host_memory(size: int, *, pinned: bool) -> Tensor:
    """Return memory of the host, uint8 [size], whatever torch's default device is. pinned: a GPU reads it by itself."""
    return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=pinned)


class Home(Protocol):
    """Where the tensors of a block are kept."""

    layout: Layout

    def bring(self, flat: Tensor) -> None:
        """Copy the tensors to memory on any device, uint8 [layout.size]; on a GPU in its current stream. Raises
        InputError where they cannot be read any more.
        """

    def keep(self, number: int, values: Tensor) -> None:
        """Keep other values of the tensor with this number. Raises InputError where they cannot change."""


class HostHome:
    """Host memory, which a GPU can read by itself where there is one."""

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """tensors: on any device; they are copied."""
        self.layout = layout_of(tensors)
        self.flat = host_memory(self.layout.size, pinned=torch.cuda.is_available())
        for own, tensor in zip(self.layout.views(self.flat), tensors, strict=True):
            own.copy_(tensor.detach())

    def bring(self, flat: Tensor) -> None:
        flat.copy_(self.flat, non_blocking=flat.is_cuda)

    def keep(self, number: int, values: Tensor) -> None:
        self.layout.parts[number].view(self.flat).copy_(values)


class FileHome:
    """Files, from which the tensors are read each time."""

    def __init__(self, tensors: Sequence[Tensor], read: Sequence[Callable[[], Tensor]]) -> None:
        """tensors: of which dtypes and shapes count; read: the functions that read them, in any dtype."""
        self.layout, self.read = layout_of(tensors), tuple(read)

    def bring(self, flat: Tensor) -> None:
        on_host = flat.device.type == "cpu"
        # Torch gives pinned memory out again when the copies from it are done.
        staged = flat if on_host else host_memory(self.layout.size, pinned=flat.is_cuda)
        with readable_files():
            for own, read in zip(self.layout.views(staged), self.read, strict=True):
                own.copy_(read())
        if not on_host:
            flat.copy_(staged, non_blocking=flat.is_cuda)

    def keep(self, number: int, values: Tensor) -> None:
        what = (
            "this adapter or start changes the base's weights, which model.streaming=disk reads from the base's files"
        )
        raise InputError(Problem(what, "model.streaming", "disk", remedy="set model.streaming=host"))


@contextmanager
def readable_files() -> Iterator[None]:
    """Raises InputError where the base's files were removed or damaged since the base was loaded."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = "the base's files, which model.streaming=disk reads during the whole run, can no longer be read"
        remedy = "restore the files, and continue with --resume"
        raise InputError(Problem(what, "model.streaming", str(error), remedy=remedy)) from error
