"""Count the bytes that tensors take while something is computed, without a device's help.

It works on tensors that have shapes and no values: then the bytes are those that the same computation would take.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from reflora_cli.planning.heap import Heap

PRODUCTS = tuple(getattr(torch.ops.aten, name).default for name in ("mm", "addmm", "bmm", "baddbmm"))


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows every storage that an operation makes, until nothing holds it any more.

    live: the bytes of the storages that exist now. peak: the most that existed at a time. What existed before the
    context was entered is not counted, nor what kernels take inside of one operation. heap: where a CPU would put them.
    products: the shapes of all different products of matrices.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self.heap = Heap()
        self.products: set[tuple[Any, ...]] = set()
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        tensors = [own for own in tree_leaves((args, kwargs)) if isinstance(own, Tensor)]
        given = {storage_key(own) for own in tensors}
        if func in PRODUCTS:
            self.products.add((func, *((tuple(own.shape), own.stride()) for own in tensors)))
        out = func(*args, **(kwargs or {}))
        for own in tree_leaves(out):
            if isinstance(own, Tensor) and storage_key(own) not in given:
                self.follow(own)
        return out

    def follow(self, tensor: Tensor) -> None:
        """Count the tensor's storage from now on, once."""
        storage, key = tensor.untyped_storage(), storage_key(tensor)
        if key in self._held:
            return
        size = storage.nbytes()
        address = self.heap.place(size)

        def release(_: object) -> None:
            self.live -= size
            self.heap.free(address, size)
            self._held.pop(key, None)

        self._held[key] = weakref.ref(storage, release)
        self.live += size
        self.peak = max(self.peak, self.live)


def storage_key(tensor: Tensor) -> int:
    """Return what tells the tensor's storage from all others that exist."""
    return int(tensor.untyped_storage()._cdata)


def unique_bytes(tensors: Any) -> int:
    """Return the bytes of the storages of some tensors, each counted once."""
    sizes = {storage_key(own): own.untyped_storage().nbytes() for own in tensors}
    return sum(sizes.values())


def is_half(dtype: torch.dtype) -> bool:
    """Whether forward passes run under autocast."""
    return dtype is not torch.float32
