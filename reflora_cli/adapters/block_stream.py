"""Bring the frozen weights of a model's blocks to its device one block after the other, for a base that is larger
than the device's memory.

Two blocks are on the device at most: the one that computes, and the one that is expected next, which is brought
meanwhile. Blocks are used from first to last, and in the backward pass from last to first; which one is next is only
expected, and a block that was not is brought when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from reflora_cli.adapters.block_homes import Home

CPU = torch.device("cpu")
RESIDENT = 2
"""The number of blocks for which there is memory on the device."""


@dataclass(frozen=True)
class Block:
    """The frozen weights of one block: their tensors, in the order of their home, and that home."""

    tensors: tuple[Tensor, ...]
    home: Home

    def hide(self, device: torch.device) -> None:
        """Put stand-ins for a device in the place of the tensors' values."""
        for tensor, part in zip(self.tensors, self.home.layout.parts, strict=True):
            tensor.data = part.absent(device)


class BlockStream:
    """The blocks of one model, and which of them are on its device.

    The tensors of a block that is there are views of the device's memory, and of all others a stand-in without memory.
    """

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self.worker = ThreadPoolExecutor(1, "blocks")
        self.coming: dict[int, tuple[Tensor, Future[None]]] = {}
        self.lane: Lane = HostLane()
        self.place(CPU)

    def place(self, device: torch.device) -> None:
        """Bring blocks to this device from now on; no block is there yet."""
        # Memory that is still copied to must not be given back.
        wait([copied for _, copied in self.coming.values()])
        self.lane.wait()
        self.device, self.lane = device, lane_of(device)
        self.free: list[Tensor] = []
        self.coming = {}
        self.current: int | None = None
        for block in self.blocks:
            block.hide(device)

    @property
    def resident_bytes(self) -> int:
        """The memory on the device that blocks take."""
        return min(RESIDENT, len(self.blocks)) * max(block.home.layout.size for block in self.blocks)

    @property
    def kept_bytes(self) -> int:
        """The bytes of all blocks at home."""
        return sum(block.home.layout.size for block in self.blocks)

    @torch.inference_mode(mode=False)
    def enter(self, number: int, returning: bool) -> None:
        """Let the tensors of a block be on the device, for what is computed from now until another block is entered.

        returning: whether a backward pass may follow on the last block. Raises what its home raises; then no block is
        there, and every one can be asked for again.
        """
        if number == self.current:
            return
        following = self.expected(number, returning)
        self.current = None  # until this one is there: the block that was may be given up now
        self.release({number, following})
        flat = self.arrived(number)
        block = self.blocks[number]
        for tensor, own in zip(block.tensors, block.home.layout.views(flat), strict=True):
            tensor.data = own
        self.current = number
        self.begin(following)

    def arrived(self, number: int) -> Tensor:
        """Return the memory of a block, uint8, when it is there for what is computed from now on."""
        self.begin(number)
        flat, copied = self.coming[number]
        try:
            copied.result()
        except BaseException:
            self.release(set(self.coming) - {number})  # a later attempt begins anew
            raise
        self.lane.wait()
        return flat

    def expected(self, number: int, returning: bool) -> int:
        """Return the block that is probably entered after this one."""
        last = len(self.blocks) - 1
        backward = self.current is not None and self.current == number + 1
        following = number - 1 if backward else number + 1
        if following > last:
            return max(last - 1, 0) if returning else 0
        return min(1, last) if following < 0 else following

    def begin(self, number: int) -> None:
        """Begin to bring a block, unless it is there or on its way."""
        if number in self.coming:
            return
        flat = self.memory()
        bring = self.blocks[number].home.bring
        own = flat[: self.blocks[number].home.layout.size]
        self.coming[number] = flat, self.worker.submit(self.lane.copy, bring, own)

    def release(self, kept: set[int]) -> None:
        """Give up the blocks that are not among those to keep."""
        gone = [number for number in self.coming if number not in kept]
        if gone:
            self.lane.leave()
        for number in gone:
            flat, _ = self.coming.pop(number)
            self.free.append(flat)
            self.blocks[number].hide(self.device)

    def memory(self) -> Tensor:
        """Return memory for a block on the device, uint8."""
        if self.free:
            return self.free.pop()
        size = max(block.home.layout.size for block in self.blocks)
        made = torch.empty(size, dtype=torch.uint8, device=self.device)
        self.lane.leave()
        return made

    @torch.inference_mode(mode=False)
    def keep(self, number: int, tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        """Keep other values of some of a block's tensors. Raises InputError where they cannot change."""
        block = self.blocks[number]
        places = {id(tensor): place for place, tensor in enumerate(block.tensors)}
        for tensor, own in zip(tensors, values, strict=True):
            block.home.keep(places[id(tensor)], own)
        self.release(set(self.coming) - {number})
        self.current = None


class Lane(Protocol):
    """The order of copies and computation on a device."""

    def copy(self, bring: Callable[[Tensor], None], flat: Tensor) -> None:
        """Copy to memory that may be written."""

    def wait(self) -> None:
        """Let what is computed from now on wait for the copies that have begun."""

    def leave(self) -> None:
        """Let copies that begin from now on wait for what has been asked to be computed."""


class HostLane:
    """The lane of a CPU, where what was asked for is done when the call returns."""

    def copy(self, bring: Callable[[Tensor], None], flat: Tensor) -> None:
        bring(flat)

    def wait(self) -> None: ...

    def leave(self) -> None: ...


class CudaLane:
    """The lane of a GPU: copies run in a stream of their own beside the computation."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.leave()

    def copy(self, bring: Callable[[Tensor], None], flat: Tensor) -> None:
        with torch.cuda.stream(self.stream):
            self.stream.wait_event(self.left)
            bring(flat)

    def wait(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def leave(self) -> None:
        self.left = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.left.record(torch.cuda.current_stream(self.device))


def lane_of(device: torch.device) -> Lane:
    """Return the lane of a device."""
    return CudaLane(device) if device.type == "cuda" else HostLane()
