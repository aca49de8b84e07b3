"""Decide which rows of a split are scored together: as many as take no more memory than the longest ones.

A batch of `size` of the longest rows has a number of padded tokens. Every batch may have as many: where rows are
shorter there are more of them, and the model is called less often.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 4
"""The largest batch, as a multiple of the batch size: what a row takes beside its tokens, as the logits of its next
token, is then bounded too."""


def score_batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Return the indices of all rows in batches, the longest rows first: too large a batch fails at once, and rows of a
    batch are alike.

    lengths: the number of tokens of every row. size: the number of rows in a batch of the longest ones. No batch has
    more than `size` times the largest length of padded tokens, or more than four times `size` rows.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    budget = size * lengths[order[0]] if order else 0
    batches: list[list[int]] = []
    for index in order:
        last = batches[-1] if batches else []
        if last and len(last) < MOST * size and (len(last) + 1) * lengths[last[0]] <= budget:
            last.append(index)
        else:
            batches.append([index])
    return batches
