"""LoftQ and LQ-LoRA: codes Q and a pair that together come close to the weight W [out, in] that was quantized.

LoftQ, Li et al. 2023, arXiv 2310.08659: from s B_0 A_0 = 0, T times

    Q_t = quantized(W - s B_{t-1} A_{t-1})
    s B_t A_t = the best approximation of W - Q_t of rank r,

balanced as PiSSA's pair. Training begins with Q_T, A_T and B_T. Q_1 is the base as it is: for T = 1 its codes stay.

LQ-LoRA, Guo et al. 2023, arXiv 2311.12023, begins with Q_0 = 0, takes both steps in the other order,

    s B_t A_t = the best approximation of W - Q_{t-1} of rank r
    Q_t = quantized(W - s B_t A_t),

and stops when |W - Q_t - s B_t A_t| (Frobenius) does not fall any more. The best t counts; the authors' code returns
the one after it. Their weights from the diagonal of a Fisher matrix, which need a squared gradient of every entry of W,
and their choice of bits for each matrix by an integer program are left out.

PEFT's `loftq` leaves s out, so that it is right for s = 1 only. Both need W itself and not the dequantized base, whose
error they are to make up for. Sums and codes are made on the CPU; decompositions are float32 on the base's device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reflora_cli.adapters.low_rank import exact_product
from reflora_cli.adapters.pissa import principal_pair
from reflora_cli.adapters.quantized import QuantizedWeight


class Pair(NamedTuple):
    """A [r, in] and B [out, r], float32, with their s."""

    A: Tensor
    B: Tensor
    scale: float

    def product(self) -> Tensor:
        """Return s B A [out, in] on the CPU, the same on every machine."""
        return exact_product(self.A, self.B, self.scale)


class Split(NamedTuple):
    """W as quantized(W - s B' A') + s B A. pair: A and B. taken: A' and B'; None where W itself is quantized."""

    pair: Pair
    taken: Pair | None


class Approximation(NamedTuple):
    """How best approximations are made. rank: r. scale: s. iterations: as for `principal_pair`, and so is generator."""

    rank: int
    scale: float
    iterations: int | None
    generator: torch.Generator

    def of(self, matrix: Tensor) -> Pair:
        """Return the best approximation of a matrix [out, in]."""
        return Pair(*principal_pair(matrix, self.rank, self.scale, self.iterations, self.generator), self.scale)


@torch.no_grad()
def loftq_split(frozen: QuantizedWeight, approximate: Approximation, rounds: int) -> Split:
    """Return LoftQ's split of the weight that was quantized. rounds: T. Raises InputError if that weight is lost."""
    W, device = frozen.original(), frozen.weight.device
    codes, taken = frozen, None
    pair = approximate.of(W.to(device) - codes.dense())
    for _ in range(rounds - 1):
        codes, taken = frozen.quantized_alike(W - pair.product()), pair
        pair = approximate.of(W.to(device) - codes.dense())
    return Split(pair, taken)


@torch.no_grad()
def lq_lora_split(frozen: QuantizedWeight, approximate: Approximation, rounds: int) -> Split:
    """Return LQ-LoRA's split of the weight that was quantized. rounds: the most steps. Raises as `loftq_split`."""
    W, device = frozen.original(), frozen.weight.device
    pair, least = approximate.of(W.to(device)), float("inf")
    best = pair
    for _ in range(rounds):
        codes = frozen.quantized_alike(W - pair.product())
        rest = W.to(device) - codes.dense()
        error = float((rest.cpu() - pair.product()).double().norm())
        if error >= least:
            break
        best, least, pair = pair, error, approximate.of(rest)
    return Split(best, best)
