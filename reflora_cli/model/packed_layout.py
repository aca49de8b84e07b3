"""Where the tokens of a packed batch stand: side by side for a block, in their places of padded rows for attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a batch stand. tokens: the flat places, int64 [tokens], of those places of the padded batch
    that hold a token. rows, length: the shape of the padded batch.
    """

    tokens: Tensor
    rows: int
    length: int

    def is_padded(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == (self.rows, self.length)

    def is_packed(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.dim() == 3 and value.shape[:2] == (1, len(self.tokens))

    def pack(self, padded: Tensor) -> Tensor:
        """Turn [n, length, ...] into [1, tokens, ...]."""
        return padded.reshape(-1, *padded.shape[2:]).index_select(0, self.tokens)[None]

    def packed(self, value: Any) -> Any:
        """Return `pack` of padded rows, and anything else as it is."""
        return self.pack(value) if self.is_padded(value) else value

    def unpacked(self, value: Any) -> Any:
        """Return `unpack` of packed tokens, and anything else as it is."""
        return self.unpack(value) if self.is_packed(value) else value

    def unpack(self, packed: Tensor) -> Tensor:
        """Turn [1, tokens, ...] into [n, length, ...], zero at the places of padding."""
        empty = packed.new_zeros(self.rows * self.length, *packed.shape[2:])
        # Every place is added to once. Copying by index takes four times as long on a CPU.
        return empty.index_add(0, self.tokens, packed[0]).view(self.rows, self.length, *packed.shape[2:])


@dataclass
class UnderWay:
    """The layout of the batch that a packed model began with last; None if that batch is not packed.

    Compiled blocks read it here: what a compiler finds on a module it takes for constant, and every batch would be
    compiled anew. Compiled blocks of a model run right after the model has begun, so that it is theirs.
    """

    layout: Layout | None = None


UNDER_WAY = UnderWay()
