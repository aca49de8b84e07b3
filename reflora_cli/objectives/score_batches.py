"""Decide which rows of a split are scored together: at most as many as take the memory of the longest ones.

A batch of `size` of the longest rows has a number of padded tokens, which no batch exceeds: of shorter rows there may
be more. A batch that is read once ends before rows that are so much shorter that padding would cost more
than another batch; one that is written to has more to win by fewer batches, each of which takes a pass a token.
"""

from __future__ import annotations

from collections.abc import Sequence

MOST = 4
"""The largest batch, as a multiple of the batch size: what a row takes beside its tokens, as the logits of its next
token, is then bounded too."""
FEW = 1 / 4
"""The share of the most tokens from which a batch is large enough to end early."""
READ = 0.03
"""The padding that is accepted in batches that are read once, as a share of their tokens."""
WRITTEN = float("inf")
"""The padding that is accepted in batches to whose rows is written."""


def score_batches(lengths: Sequence[int], size: int, accepted: float) -> list[list[int]]:
    """Return the indices of all rows in batches, the longest rows first: too large a batch fails at once, and rows of a
    batch are alike.

    lengths: the number of tokens of every row. size: the number of rows in a batch of the longest ones. No batch has
    more than `size` times the largest length of padded tokens, or more than four times `size` rows. accepted: the
    padding that a batch may have once it has a quarter of that, as a share of its rows' tokens.
    """
    order = longest_first(lengths)
    most = size * lengths[order[0]] if order else 0
    batches: list[list[int]] = []
    tokens = 0
    for index in order:
        last = batches[-1] if batches else []
        longest = lengths[last[0]] if last else 0
        padded = (len(last) + 1) * longest
        is_full = len(last) == MOST * size or padded > most
        ends_early = padded - longest >= FEW * most and padded > (1 + accepted) * (tokens + lengths[index])
        if last and not is_full and not ends_early:
            last.append(index)
            tokens += lengths[index]
        else:
            batches.append([index])
            tokens = lengths[index]
    return batches


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Return the indices of rows by their lengths, the longest first; rows of one length in their order."""
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
