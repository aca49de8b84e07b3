"""Batches on a device: the same values, and on a GPU copied from pinned memory without a wait."""

from __future__ import annotations

from typing import Any, cast

import torch

from reflora_cli.data.place import placed

BATCH = {"ids": torch.arange(6).view(2, 3), "none": torch.zeros(0, dtype=torch.long)}


def test_a_batch_is_the_same_on_the_device() -> None:
    found = placed(BATCH, torch.device("cpu"))
    assert found.keys() == BATCH.keys()
    assert all(torch.equal(tensor, BATCH[name]) for name, tensor in found.items())
    there = placed(BATCH, torch.device("meta"))
    assert {tensor.device.type for tensor in there.values()} == {"meta"}


class HostTensor:
    """A tensor that tells what is done with it."""

    def __init__(self, done: tuple[object, ...] = ()) -> None:
        self.done = done

    def pin_memory(self) -> HostTensor:
        return HostTensor((*self.done, "pinned"))

    def to(self, device: torch.device, *, non_blocking: bool) -> HostTensor:
        return HostTensor((*self.done, device.type, non_blocking))


def test_a_gpu_gets_pinned_memory_and_the_host_does_not_wait() -> None:
    found = placed({"ids": cast(Any, HostTensor())}, torch.device("cuda"))
    assert cast(Any, found["ids"]).done == ("pinned", "cuda", True)
