"""llama.cpp's tokenization, rebuilt from what a GGUF file says of it (src/llama-vocab.cpp).

The rebuilt ids are compared with those of the model's own tokenizer: a file whose tokenizer cuts texts in another way
than in training would ask the model in tokens that it has never seen together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

from reflora_cli.export.gguf_splitters import splitter_named

SPECIAL = (2, 3, 4)
"""Types of tokens that are found in a text before anything else: unknown, control, user defined."""
SPACE = "▁"
SWALLOWING_NAMES = ("phi-3", "phi3")
"""Parts of a model's name from which llama.cpp concludes that special tokens swallow the spaces after them."""
PATIENT = ("<unk>", "<s>", "<|endoftext|>")
"""The special tokens that do not, even then."""


def byte_characters() -> dict[int, str]:
    """Return the printable character that stands for each byte in byte-level tokens."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{byte: chr(byte) for byte in printable}, **{byte: chr(256 + n) for n, byte in enumerate(others)}}


CHARACTERS = byte_characters()


@dataclass(frozen=True)
class LlamaTokenizer:
    """A tokenizer as a GGUF file keeps it.

    model: `llama` (pieces joined by score) or `gpt2` (bytes joined by merges). pre: how words are cut, for `gpt2`.
    tokens, types: by id. scores: by id, for `llama`. merges: in order, for `gpt2`. bos, eos, unk, pad: ids. eot: the
    id of the token that ends a turn of a conversation. swallows_spaces: whether the model's name is one of
    SWALLOWING_NAMES.
    """

    model: Literal["llama", "gpt2"]
    pre: str
    tokens: tuple[str, ...]
    types: tuple[int, ...]
    eos: int
    bos: int | None = None
    unk: int | None = None
    pad: int | None = None
    eot: int | None = None
    scores: tuple[float, ...] = ()
    merges: tuple[tuple[str, str], ...] = ()
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool = False
    swallows_spaces: bool = False

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text, with what is put around it."""
        found = [self.bos] if self.add_bos and self.bos is not None else []
        after_special = True
        for part in self.parts(text):
            if isinstance(part, int):
                found.append(part)
            else:
                found += self.pieces(part, prefix=self.add_space_prefix and after_special)
            after_special = isinstance(part, int)
        return [*found, self.eos] if self.add_eos else found

    def parts(self, text: str) -> list[str | int]:
        """Return a text with its special tokens as ids, the longest found first."""
        parts: list[str | int] = [text] if text else []
        for token, index in self.specials:
            if token in text:
                parts = [one for part in parts for one in self.divided(part, token, index)]
        return parts

    def divided(self, part: str | int, token: str, index: int) -> list[str | int]:
        """Return a part with every occurrence of a token as its id."""
        if isinstance(part, int):
            return [part]
        first, *others = part.split(token)
        if self.swallows_spaces and token not in PATIENT:
            others = [text.lstrip(" \t\n\v\f\r") for text in others]
        divided: list[str | int] = [first]
        for text in others:
            divided += [index, text]
        return [one for one in divided if one != ""]

    def pieces(self, text: str, *, prefix: bool) -> list[int]:
        """Return the token ids of a text without special tokens."""
        if self.model == "llama":
            return self.scored((" " * prefix + text).replace(" ", SPACE))
        return [index for word in splitter_named(self.pre).pieces(text) for index in self.merged(word)]

    def scored(self, text: str) -> list[int]:
        """Join characters while any two neighbours are a token, the best scored first; the rest become bytes."""
        parts = list(text)
        while True:
            pairs = [(-self.scores[self.index[pair]], place) for place, pair in neighbours(parts) if pair in self.index]
            if not pairs:
                break
            join(parts, min(pairs)[1])
        return [index for part in parts for index in self.or_bytes(part)]

    def or_bytes(self, part: str) -> list[int]:
        if part in self.index:
            return [self.index[part]]
        return [self.index[f"<0x{byte:02X}>"] for byte in part.encode()]

    def merged(self, word: str) -> list[int]:
        """Join bytes by the earliest merge until there is none; a part that is no token is left out."""
        text = "".join(CHARACTERS[byte] for byte in word.encode())
        parts = [text] if splitter_named(self.pre).ignores_merges and text in self.index else list(text)
        while True:
            ranks = [(rank, place) for place, rank in self.ranked(parts) if rank is not None]
            if not ranks:
                break
            join(parts, min(ranks)[1])
        return [self.index[part] for part in parts if part in self.index]

    def ranked(self, parts: list[str]) -> list[tuple[int, int | None]]:
        """Yield every place with the rank of the merge of its part and the next one."""
        pairs = pairwise(parts)
        return [(place, self.ranks.get(pair)) for place, pair in enumerate(pairs)]

    @cached_property
    def index(self) -> dict[str, int]:
        return {token: index for index, token in enumerate(self.tokens)}

    @cached_property
    def ranks(self) -> dict[tuple[str, str], int]:
        return {pair: rank for rank, pair in reversed(list(enumerate(self.merges)))}

    @cached_property
    def specials(self) -> list[tuple[str, int]]:
        found = [(token, index) for index, token in enumerate(self.tokens) if self.types[index] in SPECIAL]
        return sorted(found, key=lambda entry: -len(entry[0].encode()))


def neighbours(parts: list[str]) -> list[tuple[int, str]]:
    """Yield every place with the text of its part and the next one."""
    return [(place, left + right) for place, (left, right) in enumerate(pairwise(parts))]


def join(parts: list[str], place: int) -> None:
    parts[place : place + 2] = ["".join(parts[place : place + 2])]
