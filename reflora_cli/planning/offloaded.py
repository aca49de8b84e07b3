"""Let a pass without values keep its activations in host memory, as `training/offload.py` does on a GPU."""

from __future__ import annotations

import weakref
from collections.abc import Collection
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from reflora_cli.planning.devices import pinned
from reflora_cli.planning.meter import storage_key
from reflora_cli.training.offload import SMALLEST_BYTES, is_small, layout_of


class Away:
    """A saved tensor that is in host memory; number: how many were saved before it."""

    def __init__(self, tensor: Tensor, number: int) -> None:
        self.shape, self.dtype, self.number = tensor.shape, tensor.dtype, number


class OffloadedActivations:
    """The saved tensors of one forward pass: which of them are away, and which two are back.

    host: the bytes of host memory that they take now. peak: the most that they took at a time.
    """

    def __init__(self, weights: Collection[int]) -> None:
        """weights: the storages that stay, as `storage_key` names them."""
        self.weights = weights
        self.host = self.peak = 0
        self.away: list[weakref.ref[Away]] = []
        self.known: dict[tuple[Any, ...], tuple[weakref.ref[Any], weakref.ref[Away]]] = {}
        self.back: dict[int, Tensor] = {}

    def keeping(self) -> AbstractContextManager[None]:
        """Return the context in which the forward pass runs."""
        return saved_tensors_hooks(self.pack, self.unpack)

    def pack(self, tensor: Tensor) -> Tensor | Away:
        """Return what is saved in a tensor's place."""
        if is_small(tensor, SMALLEST_BYTES) or storage_key(tensor) in self.weights:
            return tensor
        key, size = (storage_key(tensor), *layout_of(tensor)), tensor.numel() * tensor.itemsize
        found = self.known.get(key)
        known = found[1]() if found is not None and found[0]() is not None else None
        if known is not None:
            return known
        made = Away(tensor, len(self.away))
        self.away.append(weakref.ref(made))
        self.known[key] = weakref.ref(tensor.untyped_storage()), weakref.ref(made)
        self.take(pinned(size))
        weakref.finalize(made, self.take, -pinned(size))
        return made

    def take(self, size: int) -> None:
        self.host += size
        self.peak = max(self.peak, self.host)

    def unpack(self, saved: Tensor | Away) -> Tensor:
        """Return the tensor; the one that was saved before it follows."""
        if isinstance(saved, Tensor):
            return saved
        before = self.away[saved.number - 1]() if saved.number else None
        wanted = [saved] if before is None else [saved, before]
        for own in wanted:
            if own.number not in self.back:
                self.back[own.number] = torch.empty(own.shape, dtype=own.dtype)
        self.back = {own.number: self.back[own.number] for own in wanted}
        return self.back[saved.number]
