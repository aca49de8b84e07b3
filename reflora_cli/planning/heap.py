"""Where a CPU's tensors lie: the memory that the C library's allocator takes for them, with the gaps between them.

It follows what glibc documents of malloc (mallopt(3)) once blocks of every size have been freed: up to 32 MiB a block
is put into the smallest gap that holds it, else on the top of the heap; larger ones are mapped by themselves and given
back at once. Of the heap only a free top of more than 64 MiB is given back.
"""

from __future__ import annotations

from bisect import bisect_left

ALIGNED = 64
"""torch aligns its tensors to this."""
SPARE = ALIGNED + 32
"""What glibc's memalign asks for beside a block, so that an aligned one fits in: a gap of just the block's size, which
one of the same size has left, is passed over."""
LARGEST = 32 * 2**20
"""The largest block of the heap: glibc's DEFAULT_MMAP_THRESHOLD_MAX on 64 bits."""
TRIMMED = 2 * LARGEST
"""The free top that is given back: twice the former, as glibc sets it."""


class Heap:
    """Places blocks and frees them. peak: the most bytes that were taken from the system at a time, gaps included."""

    def __init__(self) -> None:
        self.peak = 0
        self._top = self._taken = self._mapped = 0
        self._gaps: list[tuple[int, int]] = []

    def place(self, size: int) -> int:
        """Return the address of a new block; -1 for one that is mapped by itself."""
        address = -1
        if size > LARGEST:
            self._mapped += size
        else:
            address = self._fitted(rounded(size))
        self.peak = max(self.peak, self._taken + self._mapped)
        return address

    def free(self, address: int, size: int) -> None:
        """Free a block of this size at the address that `place` returned."""
        if address < 0:
            self._mapped -= size
            return
        start, end = address, address + rounded(size)
        at = bisect_left(self._gaps, (start, end))
        if at < len(self._gaps) and self._gaps[at][0] == end:
            end = self._gaps.pop(at)[1]
        if at > 0 and self._gaps[at - 1][1] == start:
            at -= 1
            start = self._gaps.pop(at)[0]
        if end == self._top:
            self._top = start
            if self._taken - start > TRIMMED:
                self._taken = start
        else:
            self._gaps.insert(at, (start, end))

    def _fitted(self, size: int) -> int:
        found = min(((end - start, at) for at, (start, end) in enumerate(self._gaps) if end - start >= size + SPARE),
                    default=None)  # fmt: skip
        if found is None:
            address, self._top = self._top, self._top + size
            self._taken = max(self._taken, self._top)
            return address
        address, end = self._gaps[found[1]]
        self._gaps[found[1] : found[1] + 1] = [(address + size, end)] if address + size < end else []
        return address


def rounded(size: int) -> int:
    """Return the bytes that a block takes; malloc writes its size before it."""
    return (1 + -(-size // ALIGNED)) * ALIGNED
