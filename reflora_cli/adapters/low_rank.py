"""What layers with one pair of factors share: A and B, where they start, and a base that may be moved beneath them.

A and B are float32 whatever the base's dtype; their products run in the dtype of the activations, so no float32 copy of
a half-precision activation is made.

Some starts take a low-rank part out of W and train it (PiSSA): the frozen weight is then W + s B_off A_off, where W is
the checkpoint's and the offset is what was taken out, with its sign. In the adapter's file the offset stands behind the
factors, as [A; A_off] and [B, B_off]: a pair of rank r + q with the same s on the checkpoint's own weight, which any
reader of LoRA computes with.

Of a quantized W, a part may also be taken out before W is quantized (LoftQ): the frozen weight is then
Q(W_0 + s B_early A_early) with the W_0 of the checkpoint's files, and what is moved later, if anything, is added to
that. The file holds [A; A_off; A_early] then, and likewise of B.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import CAST_ELEMENTS, FrozenWeight
from reflora_cli.adapters.fused import ScaledSum, low_rank_product, scaled_sum
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.factors.pair import FactorPair, Role

FILE_A, FILE_B = "lora_A.weight", "lora_B.weight"
EARLY_A, EARLY_B = "early_A", "early_B"
MOVES = ("offset_A", "offset_B", EARLY_A, EARLY_B)
"""What a layer's base was moved by, in the order of the file."""


class LowRankLayer(AdapterLayer):
    """A frozen W [out, in] with an update given by A [r, in], B [out, r] and s; dropout acts on the update's input.

    offset_A [q, in], offset_B [out, q], float32: how far the frozen weight is from the checkpoint's; None if equal.
    early_A [q, in], early_B [out, q]: the same, but added before the checkpoint's weight was quantized.
    holds_a: whether A stays where it began.
    """

    peft_type: ClassVar[str] = "LORA"
    offset_A: Tensor | None
    offset_B: Tensor | None
    early_A: Tensor | None
    early_B: Tensor | None
    holds_a: bool

    def __init__(self, frozen: FrozenWeight, pair: tuple[Tensor, Tensor], scale: float, dropout: float) -> None:
        super().__init__(frozen)
        self.A, self.B = (self.factor(own) for own in pair)
        self.holds_a = False
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        for name in MOVES:
            self.register_buffer(name, None, persistent=False)

    @classmethod
    def restored(
        cls, frozen: FrozenWeight, tensors: Mapping[str, Tensor], scale: float, dropout: float, offset_rank: int
    ) -> Self:
        """Return the layer that has written these tensors, whose shapes fit; the base is moved as it was then.

        frozen: the checkpoint's weight. offset_rank: q of the r + q rows of A that are the offset; what was
        moved early stands by itself in `tensors`, under EARLY_A and EARLY_B.
        """
        A, B = tensors[FILE_A], tensors[FILE_B]
        rank = A.shape[0] - offset_rank
        layer = cls(frozen, (A[:rank], B[:, :rank].contiguous()), scale, dropout)
        if EARLY_A in tensors:
            layer.move_early(tensors[EARLY_A], tensors[EARLY_B])
        if offset_rank:
            layer.move(A[rank:], B[:, rank:].contiguous())
        return layer

    def factor(self, values: Tensor) -> nn.Parameter:
        """Return a trainable float32 copy on the base's device."""
        return nn.Parameter(self.copied(values))

    def copied(self, values: Tensor) -> Tensor:
        """Return a float32 copy on the base's device, row by row in memory of its own.

        A tensor read from a file may lie at any address, and one that was computed may be stored column by column:
        products round differently there, and a run that continues would differ from one that was not interrupted.
        """
        device, layout = self.frozen.device, torch.contiguous_format
        return values.detach().to(device, torch.float32, copy=True, memory_format=layout)

    def begin(self, A: Tensor, B: Tensor) -> None:
        """Take these as the factors, whatever their rank; s stays."""
        self.A, self.B = self.factor(A), self.factor(B)
        self.A.requires_grad_(not self.holds_a)

    def hold_a(self) -> None:
        """Let A stay as it is, whatever it is later given by `begin`: only B and what else the layer has is trained."""
        self.holds_a = True
        self.A.requires_grad_(False)

    @torch.no_grad()
    def move(self, A: Tensor, B: Tensor) -> None:
        """Add s B A to the frozen weight, in memory of its own, and to the offset. A: [q, in], B: [out, q]."""
        A, B = self.copied(A), self.copied(B)
        self.frozen = self.frozen.moved(exact_product(A, B, self.scale))
        self.offset_A = A if self.offset_A is None else torch.cat([self.offset_A, A])
        self.offset_B = B if self.offset_B is None else torch.cat([self.offset_B, B], dim=1)
        self.follow_base()

    @torch.no_grad()
    def move_early(self, A: Tensor, B: Tensor) -> None:
        """Replace the frozen weight by that of W_0 + s B A, with the W_0 from which it was quantized. A: [q, in],
        B: [out, q].

        The layer must not have been moved before. Raises InputError if the checkpoint does not hold W_0.
        """
        assert self.offset_A is None
        assert self.early_A is None
        self.early_A, self.early_B = self.copied(A), self.copied(B)
        self.frozen = self.frozen.moved_original(exact_product(self.early_A, self.early_B, self.scale))
        self.follow_base()

    def follow_base(self) -> None:
        """Renew what was computed from the frozen weight, which has just been moved."""

    def follow_start(self) -> None:
        """Let what trains beside the pair begin at W + s B A, which has just been made another than the base's."""

    def constants(self) -> dict[str, Tensor]:
        held = {"A": self.A} if self.holds_a else {}
        return {**held, **{name: own for name, own in self.named_buffers(recurse=False) if name in MOVES}}

    def tensors(self) -> dict[str, Tensor]:
        rows = [own for own in (self.A, self.offset_A, self.early_A) if own is not None]
        columns = [own for own in (self.left(), self.offset_B, self.early_B) if own is not None]
        if len(rows) == 1:
            return {FILE_A: self.A, FILE_B: columns[0]}
        return {FILE_A: torch.cat(rows), FILE_B: torch.cat(columns, dim=1)}

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def offset_rank(self) -> int:
        """The ranks of the file that are no factors: both kinds of moves."""
        return self.early_rank + (0 if self.offset_A is None else self.offset_A.shape[0])

    @property
    def early_rank(self) -> int:
        return 0 if self.early_A is None else self.early_A.shape[0]

    def pairs(self, name: str) -> list[FactorPair]:
        return [FactorPair(name, self.A, self.B, self.scale)]

    def roles(self) -> dict[str, Role]:
        return {"B": Role.FACTOR_B} if self.holds_a else {"A": Role.FACTOR_A, "B": Role.FACTOR_B}

    def left(self) -> Tensor:
        """Return what stands to the left of A in the update, [out, r], float32: B, or a product with B."""
        return self.B

    def low_rank(self, x: Tensor) -> Tensor:
        """Return s B A x [..., out] for x [..., in]."""
        return low_rank_product(x, self.A, self.left(), self.scale)

    def added(self, x: Tensor) -> Tensor:
        """Return W x + b + s B A drop(x) [..., out] for x [..., in]."""
        return scaled_sum(x, self.dropout, self.A, self.left(), ScaledSum(self.scale, self.frozen))

    def dense_sum(self) -> Tensor:
        """Return W + s B A [out, in] with the frozen W, float32 and detached."""
        return torch.addmm(self.frozen.dense(), self.left().detach(), self.A.detach(), alpha=self.scale)


def uniform(rank: int, in_features: int, generator: torch.Generator) -> Tensor:
    """Return A [r, in] ~ U(-1/sqrt(in), 1/sqrt(in)), as in PEFT and loralib (kaiming uniform with a = sqrt 5)."""
    bound = 1 / math.sqrt(in_features)
    return torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)


def exact_product(A: Tensor, B: Tensor, scale: float) -> Tensor:
    """Return scale B A [out, in] in float32 on the CPU, summed in float64: the same bits on every machine.

    A quantized weight that is moved a little differently has other codes, which are whole steps apart.
    """
    wide = A.detach().cpu().double()
    rows = torch.split(B.detach().cpu().double() * scale, max(1, CAST_ELEMENTS // wide.shape[1]))
    return torch.cat([(own @ wide).float() for own in rows])


def hold_first_factors(adapted: Adapted) -> None:
    """Let A of every pair stay as it is, in place: it is a constant of its layer from now on, as in checkpoints."""
    for layer in adapted.layers.values():
        if isinstance(layer, LowRankLayer):
            layer.hold_a()
