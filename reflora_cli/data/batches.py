"""Decide which rows make up which optimizer step, and turn encoded rows into tensors.

The order is a pure function of (seed, step, lengths). So nothing has to be stored to continue a run, and the order does
not depend on the number of processes or on how a step is cut into micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from reflora_cli.data.encode import EncodedRow
from reflora_cli.data.pad import Padding, pad

WINDOW = 32
"""Steps whose rows are sorted by length together: enough that batches have nearly equal lengths, few enough that the
rows of a batch remain random."""


class StepSampler:
    """A seeded shuffle of the rows for each epoch, cut into steps of `batch_size`; an epoch's last step may be smaller.

    lengths: the number of tokens of every row. With them a step has rows of similar length, and the order of the steps
    is still shuffled; without them the shuffle is plain. In both cases every row comes once in each epoch.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, lengths: Sequence[int] = ()) -> None:
        self.rows, self.batch_size, self.seed, self.lengths = rows, batch_size, seed, lengths
        self._epoch: tuple[int, list[int]] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    def step_rows(self, step: int) -> list[int]:
        """Return the row indices of optimizer step `step` (0-based), over all processes."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = epoch, self.order(epoch)
        return self._epoch[1][index * self.batch_size : (index + 1) * self.batch_size]

    def order(self, epoch: int) -> list[int]:
        """Return the permutation of the rows in one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        return self.grouped(order, generator) if self.lengths else order

    def grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Sort windows of a shuffle by length, cut them into steps and shuffle the steps; a smaller step stays last."""
        size, window = self.batch_size, WINDOW * self.batch_size
        whole = self.rows // size * size
        alike = [
            row
            for start in range(0, whole, window)
            for row in sorted(order[start : min(start + window, whole)], key=lambda row: self.lengths[row])
        ]
        steps = [alike[start : start + size] for start in range(0, whole, size)]
        places: list[int] = torch.randperm(len(steps), generator=generator).tolist()
        return [row for place in places for row in steps[place]] + order[whole:]


def micro_batches(
    rows: Sequence[int], rank: int, processes: int, size: int, kind: Callable[[int], int] | None = None
) -> list[list[int]]:
    """Return this process's share of a step, in chunks of at most `size` rows; `kind` is explained at `cut`.

    Every process gets the same number of chunks, so that collective operations match; a chunk may be empty.
    """
    shares = [cut(rows[other::processes], size, kind) for other in range(processes)]
    mine = shares[rank]
    return mine + [[]] * (max(map(len, shares)) - len(mine))


def cut(rows: Sequence[int], size: int, kind: Callable[[int], int] | None = None) -> list[list[int]]:
    """Return the rows in order, in chunks of at most `size`.

    kind: a function of the row; all rows of a chunk have the same value of it. By default all rows are alike.
    """
    chunks: list[list[int]] = []
    for row in rows:
        last = chunks[-1] if chunks else []
        if last and len(last) < size and (kind is None or kind(last[0]) == kind(row)):
            last.append(row)
        else:
            chunks.append([row])
    return chunks


def collate(
    rows: Sequence[EncodedRow], pad_token: int, pad_type: int, multiple: int = 1, padding: Padding = Padding.RIGHT
) -> dict[str, Tensor]:
    """Pad rows to the longest one: input_ids, attention_mask and, where the model has them, token_type_ids [n, length].

    multiple: the length is rounded up to a multiple of it.
    """
    ids, mask = pad([row.input_ids for row in rows], pad_token, padding, multiple)
    batch = {"input_ids": ids, "attention_mask": mask}
    types = [row.token_type_ids for row in rows if row.token_type_ids is not None]
    if types:
        batch["token_type_ids"], _ = pad(types, pad_type, padding, multiple)
    return batch
