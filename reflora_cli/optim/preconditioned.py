"""What rules share that multiply the gradients of a pair by two r x r matrices made of its factors.

A rule says which matrices; when they are made, in which precision, for which pairs, and how they are saved is decided
here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.rule import UpdateRule, check_shapes
from reflora_cli.optim.stacks import PairGroup, group_pairs, has_float64

SINGLE_PRECISION = 1e-3
"""From this damping on, products of the size of factors and gradients run in float32, which halves their time.

S^-1 gA is a small difference of large numbers: at cond(BA) = 1e5 and without damping, float32 products are wrong by
3e-4. Damping of d bounds that by about 1e-7 / d, far below the noise of a gradient.
"""
TRUSTED_PIVOT = 1e-5
"""The least pivot for which a float32 Gram, scaled to a unit diagonal, is trusted; its rounding is 1e-7. Below it, the
Grams are multiplied again in float64.

Measured with damping of 1e-3: RefLoRA's gradients are wrong by 1e-6 at cond(B) = 30, by 2e-3 at 1000; ScaledGD's by
2e-5 and 2e-3.
"""


class MatricesOf(Protocol):
    """Makes the two matrices of each pair.

    gram_a, gram_b: A A^T and B^T B of n pairs, float64 [n, r, r]. damping: relative, as that of `balancing_metric`
    (`factors/linalg.py`), or absolute, as that of `shifted_inverse_grams` (`factors/shifted_grams.py`): it is for the
    function to say. least_pivot: the smallest pivot of a Gram that is trusted. Returns the matrices by which gB
    is multiplied on the right and gA on the left, float64 [n, r, r], and a bool [n]: whether a pair has them. Where it
    has none they are the identity.
    """

    def __call__(
        self, gram_a: Tensor, gram_b: Tensor, damping: float, least_pivot: float = 0.0
    ) -> tuple[Tensor, Tensor, Tensor]: ...


class PreconditionedRule(UpdateRule):
    """gA <- M gA and gB <- gB N in place, from step `warmup` + 1 on; a gradient that is None is left alone.

    keys: the names of N and M among the saved tensors. matrices_of: what N and M are.
    warmup: plain steps before the first preconditioned one; at least 1 where B starts at zero.
    interval: the matrices are renewed at steps warmup + 1, warmup + 1 + interval, ...
    damping: what `matrices_of` takes.

    Gradients are averaged over micro-batches and processes before `before_step`: the map depends on the factors.
    """

    keys: ClassVar[tuple[str, str]]
    matrices_of: ClassVar[MatricesOf]

    def __init__(self, pairs: Sequence[FactorPair], warmup: int, interval: int, damping: float) -> None:
        self._groups = group_pairs(pairs)
        self._warmup, self._interval, self._damping = warmup, interval, damping
        exact = damping < SINGLE_PRECISION and all(has_float64(group.device) for group in self._groups)
        self._precision = torch.float64 if exact else torch.float32
        self._steps = 0
        self._matrices: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def before_step(self) -> None:
        if self._steps < self._warmup:
            return
        if (self._steps - self._warmup) % self._interval == 0:
            self._matrices = [self._matrices_for(group) for group in self._groups]
        for group, matrices in zip(self._groups, self._matrices, strict=True):
            for_b, for_a = (own.to(group.device, self._precision) for own in matrices)
            group.precondition(for_b, for_a)

    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        self._steps += 1

    def stepped_plainly(self) -> list[str]:
        """Return modules whose pair had no matrices, so that the identity stood for them."""
        names: list[str] = []
        for group, (for_b, _) in zip(self._groups, self._matrices, strict=False):  # none during the warm-up
            identity = torch.eye(for_b.shape[-1], dtype=for_b.dtype, device=for_b.device)
            is_identity = (identity == for_b).flatten(1).all(1)
            names += [pair.name for pair, plain in zip(group.pairs, is_identity.tolist(), strict=True) if plain]
        return names

    def tensors(self) -> dict[str, Tensor]:
        """Return `steps`, and `<key>.<module>` for both keys where the next step applies the matrices of an earlier
        one."""
        tensors = {"steps": torch.tensor(self._steps)}
        if self._reuses_matrices(self._steps):
            for group, matrices in zip(self._groups, self._matrices, strict=True):
                for key, own in zip(self.keys, matrices, strict=True):
                    tensors |= group.by_name(key, own)
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        steps = int(tensors.get("steps", torch.tensor(0)).sum())
        reuses = self._reuses_matrices(steps)
        squares = {pair.name: (pair.rank, pair.rank) for group in self._groups for pair in group.pairs if reuses}
        matrices = {f"{key}.{name}": square for name, square in squares.items() for key in self.keys}
        check_shapes({"steps": (), **matrices}, tensors)
        self._steps = steps
        for_b, for_a = self.keys
        self._matrices = [(g.stacked(for_b, tensors), g.stacked(for_a, tensors)) for g in self._groups if reuses]

    def _matrices_for(self, group: PairGroup) -> tuple[Tensor, Tensor]:
        # Elsewhere than on a CPU, asking whether all are valid would be a synchronization.
        # Row by row, as they are in a checkpoint: products of a matrix that is stored otherwise round differently.
        if self._precision is torch.float32 and group.device.type == "cpu":
            for_b, for_a, valid = self.matrices_of(*group.grams(torch.float32), self._damping, TRUSTED_PIVOT)
            if valid.all():
                return for_b.contiguous(), for_a.contiguous()
        for_b, for_a, _ = self.matrices_of(*group.grams(torch.float64), self._damping)
        return for_b.contiguous(), for_a.contiguous()

    def _reuses_matrices(self, steps: int) -> bool:
        """Whether the step that follows `steps` steps applies matrices computed before."""
        return steps > self._warmup and (steps - self._warmup) % self._interval != 0
