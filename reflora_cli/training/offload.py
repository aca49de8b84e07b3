"""Keep what the backward pass needs of the forward pass in host memory meanwhile (train.offload_activations).

On a GPU tensors go to pinned memory in a stream of their own, and come back one ahead of their use in the backward
pass. On a CPU the same is copied from memory to memory, which saves nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef

SMALLEST_BYTES = 2**18
"""Tensors below this size stay: a copy of them would take longer to begin than to make."""


class Kept:
    """A saved tensor in host memory; number: how many were saved before it."""

    def __init__(self, host: Tensor, device: torch.device, number: int) -> None:
        self.host, self.device, self.number = host, device, number


class HostActivations:
    """The saved tensors of one forward pass.

    A tensor that several operations save is copied once. Weights stay where they are, as does everything that lies in
    their memory.
    """

    def __init__(self, weights: Collection[int], smallest: int = SMALLEST_BYTES) -> None:
        """weights: the addresses of the memory that stays; smallest: the bytes of the smallest tensor that goes."""
        self.weights, self.smallest = weights, smallest
        self.kept: list[weakref.ref[Kept]] = []
        self.known: dict[tuple[Any, ...], tuple[StorageWeakRef, weakref.ref[Kept]]] = {}
        self.arrived: dict[int, Tensor] = {}
        self.lanes: dict[torch.device, torch.cuda.Stream] = {}

    def keeping(self) -> AbstractContextManager[None]:
        """Return the context in which the forward pass runs."""
        return saved_tensors_hooks(self.pack, self.unpack)

    def pack(self, tensor: Tensor) -> Tensor | Kept:
        """Return what is saved in a tensor's place."""
        if self.stays(tensor):
            return tensor
        storage = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]
        key = (storage.cdata, *layout_of(tensor))
        found = self.known.get(key)
        kept = found[1]() if found is not None and not found[0].expired() else None  # type: ignore[no-untyped-call]
        if kept is None:
            kept = Kept(self.copied(tensor.detach()), tensor.device, len(self.kept))
            self.kept.append(weakref.ref(kept))
            self.known[key] = storage, weakref.ref(kept)
        return kept

    def stays(self, tensor: Tensor) -> bool:
        """Whether a tensor is saved itself: a small one, a weight, or one that repeats what lies in smaller memory."""
        return is_small(tensor, self.smallest) or tensor.untyped_storage().data_ptr() in self.weights

    def unpack(self, saved: Tensor | Kept) -> Tensor:
        """Return the tensor on its device, and let the one that was saved before it follow."""
        if isinstance(saved, Tensor):
            return saved
        self.fetch(saved)
        before = self.kept[saved.number - 1]() if saved.number else None
        if saved.device.type == "cuda":
            torch.cuda.current_stream(saved.device).wait_stream(self.lane(saved.device))
        if before is not None:
            self.fetch(before)
        self.arrived = {n: own for n, own in self.arrived.items() if n in (saved.number, saved.number - 1)}
        return self.arrived[saved.number]

    def copied(self, tensor: Tensor) -> Tensor:
        """Return a copy in host memory, which may not be there yet on a GPU."""
        if tensor.device.type != "cuda":
            return tensor.to("cpu", copy=True)
        host = torch.empty_like(tensor, device="cpu", pin_memory=True)
        lane = self.lane(tensor.device)
        lane.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(lane):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(lane)  # its memory is not given to others before it is copied
        return host

    def fetch(self, kept: Kept) -> None:
        """Begin to bring a tensor back, unless it is there or on its way."""
        if kept.number in self.arrived:
            return
        made = torch.empty_like(kept.host, device=kept.device)
        if kept.device.type == "cuda":
            lane, current = self.lane(kept.device), torch.cuda.current_stream(kept.device)
            lane.wait_stream(current)  # what had this memory before may still be read
            with torch.cuda.stream(lane):
                made.copy_(kept.host, non_blocking=True)
            made.record_stream(lane)
        else:
            made.copy_(kept.host)
        self.arrived[kept.number] = made

    def lane(self, device: torch.device) -> torch.cuda.Stream:
        """Return the stream in which copies of a device run."""
        if device not in self.lanes:
            self.lanes[device] = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        return self.lanes[device]


def is_small(tensor: Tensor, smallest: int) -> bool:
    """Whether a tensor has fewer bytes than `smallest`, or repeats what lies in smaller memory."""
    size = tensor.numel() * tensor.itemsize
    return size < smallest or size > tensor.untyped_storage().nbytes()


def layout_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return what tells a tensor from others in the same memory, and from itself before it was changed."""
    return tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, tensor._version


def addresses(model: nn.Module) -> frozenset[int]:
    """Return where the parameters and buffers of a model lie."""
    tensors = (*model.parameters(), *model.buffers())
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)
