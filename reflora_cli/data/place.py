"""Put the tensors of a batch onto the device that computes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def placed(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Return a batch on a device, which copies it in its own time: the host neither waits for the copy nor for what was
    asked of the device before.

    That needs pinned memory on the host. Torch keeps pinned memory for later batches, and gives none away before its
    copy is done.
    """
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}
