"""Make the first batch of the next step while the device computes the present one.

Once in a step the host waits for the device, to read the loss. What it does just before that costs no time, and what it
does first in a step, while the device has nothing to do, costs most. No thread is needed: a device is asked to compute
and does so by itself. Later batches of a step are made while it is busy anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Batch = dict[str, Tensor]


def computes_by_itself(device: torch.device) -> bool:
    """Whether the host goes on while the device computes; a CPU is the host."""
    return device.type != "cpu"


class BatchAhead:
    """The batches of training rows, one of which may be made ahead. Which rows come next is not decided here, so that a
    batch made ahead for other rows is dropped, and a continued run has the same batches.
    """

    def __init__(self, make: Callable[[Sequence[int]], Batch]) -> None:
        """make: the function that makes the batch of some training rows, given by their numbers."""
        self._make = make
        self._kept: tuple[list[int], Batch] | None = None

    def prepare(self, rows: Sequence[int]) -> None:
        """Make the batch of these rows now."""
        self._kept = list(rows), self._make(rows)

    def take(self, rows: Sequence[int]) -> Batch:
        """Return the batch of these rows, made ahead if they are those; nothing is kept then."""
        kept, self._kept = self._kept, None
        return kept[1] if kept is not None and kept[0] == list(rows) else self._make(rows)
