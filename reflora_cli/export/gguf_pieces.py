"""Turn SentencePiece's merges into the scores by which llama.cpp joins pieces."""

from __future__ import annotations

from collections.abc import Sequence

Merge = tuple[str, str]


def scores(tokens: Sequence[str], merges: Sequence[Merge]) -> list[float]:
    """Return every token's score, minus the rank of the first merge that makes it: llama.cpp joins the best scored
    first.
    """
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    return [float(-ranks.get(token, len(merges))) for token in tokens]


def is_joined_by_score(pieces: set[str], merges: Sequence[Merge]) -> bool:
    """Whether joining by score gives the same pieces as joining by merges.

    llama.cpp joins any two neighbours that together are a piece, the better piece first. So all ways to make a piece
    must be merges, and their ranks must follow one another. Merges may make other tokens too, which are found in a
    text before it is cut, as Gemma's runs of spaces: their order does not matter.
    """
    made = [piece for piece in map("".join, merges) if piece in pieces]
    blocks = [piece for rank, piece in enumerate(made) if rank == 0 or made[rank - 1] != piece]
    if len(set(blocks)) < len(blocks):
        return False
    known = set(merges)
    ways = ((piece[:place], piece[place:]) for piece in pieces for place in range(1, len(piece)))
    return all(way in known for way in ways if way[0] in pieces and way[1] in pieces)
