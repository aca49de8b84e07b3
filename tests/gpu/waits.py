"""See where the host waits for a CUDA device; on the CPU it never does."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch


@contextmanager
def waits(become: Literal["error", "warn"]) -> Iterator[None]:
    """Inside, whatever makes the host wait for a CUDA device raises RuntimeError, or is told by a warning."""
    if not torch.cuda.is_available():
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Synchronization debug mode")
        torch.cuda.set_sync_debug_mode(become)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
