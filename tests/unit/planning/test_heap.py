"""Blocks lie where an allocator of best fit puts them."""

from __future__ import annotations

import itertools
import random

from reflora_cli.planning.heap import LARGEST, TRIMMED, Heap, rounded

MIB = 2**20


def test_a_gap_of_the_block_s_own_size_is_passed_over() -> None:
    heap = Heap()
    first, _ = heap.place(MIB), heap.place(64)
    heap.free(first, MIB)
    # memalign asks for more than the block: the same size does not fit, half of it does, at the gap's start.
    assert heap.place(MIB) > first
    assert heap.place(MIB // 2) == first


def test_the_smallest_gap_that_fits_is_taken_and_neighbours_join() -> None:
    heap = Heap()
    blocks = [heap.place(size * MIB) for size in (4, 1, 2, 1)]
    heap.free(blocks[0], 4 * MIB)
    heap.free(blocks[2], 2 * MIB)
    assert heap.place(MIB) == blocks[2]
    heap.free(blocks[1], MIB)  # joins the gap before it
    assert heap.place(5 * MIB - 64) == blocks[0]


def test_large_blocks_and_a_free_top_are_given_back() -> None:
    heap = Heap()
    for _ in range(3):
        heap.free(heap.place(LARGEST + 1), LARGEST + 1)
    assert heap.peak == LARGEST + 1
    blocks = [heap.place(30 * MIB) for _ in range(3)]
    for address in reversed(blocks):
        heap.free(address, 30 * MIB)
    heap.place(TRIMMED * 2)
    assert heap.peak < TRIMMED * 2 + 64 * MIB


def test_blocks_never_overlap() -> None:
    dice, heap, held = random.Random(0), Heap(), []
    live = most = 0
    for _ in range(3000):
        if held and dice.random() < 0.5:
            address, size = held.pop(dice.randrange(len(held)))
            heap.free(address, size)
            live -= rounded(size)
        else:
            size = dice.randrange(1, 100_000)
            held.append((heap.place(size), size))
            live += rounded(size)
            most = max(most, live)
    ordered = sorted(held)
    assert all(start + rounded(size) <= later for (start, size), (later, _) in itertools.pairwise(ordered))
    assert most <= heap.peak
