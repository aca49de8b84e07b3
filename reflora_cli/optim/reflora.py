"""RefLoRA: gradients preconditioned by the matrix S that balances the factors (arXiv 2505.18877, full variant).

Zhang, Li and Giannakis (NeurIPS 2025) refactor (A, B) -> (P^T A, B P^-T) with S = P P^T, take a gradient step, and
refactor back. For gradient descent that is

    A <- A - eta S^-1 gA        B <- B - eta gB S

and these two products are what the optimizer is given here, as in the authors' code (zhangyilang/RefLoRA): neither the
factors nor moments are transformed. Under gradient descent BA then moves in the same way from all of its factorizations
(`pair_sgd.py`). Under AdamW, which the paper's runs and ours use by default, it does not, and the part of S that is a
constant scalar or diagonal has no effect: what acts is its mixing of rows and columns, and its change over time.
`linalg.py` says how S is computed. Where we differ from the authors' code:

* S is damped, and computed in float64 for all modules at once; the large products with factors and gradients run in
  float32 where damping makes that enough;
* with an interval of k, S is renewed every k-th step and the last S is applied at every step; the authors' code feeds
  Adam raw gradients in between, which have other units;
* a pair without an S steps plainly, as one with a zero or non-finite factor (the exact limit at B = 0 would freeze it
  for ever), or with a BA of lower rank where damping is weak;
* the count of steps and an S still in use are part of the checkpoint, so a resumed run does not repeat its warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reflora_cli.factors import FactorPair
from reflora_cli.linalg import balancing_metric
from reflora_cli.optim.rule import UpdateRule, check_shapes
from reflora_cli.optim.stacks import PairGroup, group_pairs, has_float64

SINGLE_PRECISION = 1e-3
"""Damping from which on the large products, Grams and those with gradients, may run in float32, in half the time.

S^-1 gA is a small difference of large numbers: at cond(BA) = 1e5 and without damping, float32 products are wrong by
3e-4. Damping of d bounds that by about 1e-7 / d, far below the noise of a gradient.
"""
TRUSTED_PIVOT = 1e-5
"""Of a float32 Gram with a unit diagonal; its rounding is 1e-7. Below, the Grams are multiplied again in float64.

Measured with damping of 1e-3: the gradients are wrong by 1e-6 at cond(B) = 30, by 2e-3 at 1000.
"""


class RefLoRARule(UpdateRule):
    """gA <- S^-1 gA and gB <- gB S in place, from step `warmup` + 1 on; a gradient that is None is left alone.

    warmup: plain steps before the first preconditioned one; at least 1 where B starts at zero.
    interval: S is renewed at steps warmup + 1, warmup + 1 + interval, ...
    damping: see `balancing_metric`.

    The map is linear but depends on the factors: average over micro-batches and processes first.
    """

    def __init__(self, pairs: Sequence[FactorPair], warmup: int, interval: int, damping: float) -> None:
        self._groups = group_pairs(pairs)
        self._warmup, self._interval, self._damping = warmup, interval, damping
        exact = damping < SINGLE_PRECISION and all(has_float64(group.device) for group in self._groups)
        self._precision = torch.float64 if exact else torch.float32
        self._steps = 0
        self._metrics: list[tuple[Tensor, Tensor]] = []

    @torch.no_grad()
    def before_step(self) -> None:
        if self._steps < self._warmup:
            return
        if (self._steps - self._warmup) % self._interval == 0:
            self._metrics = [self._metric(group) for group in self._groups]
        for group, metric in zip(self._groups, self._metrics, strict=True):
            S, S_inverse = (matrices.to(group.device, self._precision) for matrices in metric)
            group.precondition(S, S_inverse)

    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        self._steps += 1

    def stepped_plainly(self) -> list[str]:
        """Modules whose pair had no S, so that the identity stood for it."""
        names: list[str] = []
        for group, (S, _) in zip(self._groups, self._metrics, strict=False):  # none before the first S
            identity = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
            is_identity = (identity == S).flatten(1).all(1)
            names += [pair.name for pair, plain in zip(group.pairs, is_identity.tolist(), strict=True) if plain]
        return names

    def tensors(self) -> dict[str, Tensor]:
        """`steps`, and `S.<module>` and `S_inverse.<module>` where the next step applies an S of an earlier one."""
        tensors = {"steps": torch.tensor(self._steps)}
        if self._reuses_metrics(self._steps):
            for group, (S, S_inverse) in zip(self._groups, self._metrics, strict=True):
                tensors |= group.by_name("S", S) | group.by_name("S_inverse", S_inverse)
        return tensors

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        steps = int(tensors.get("steps", torch.tensor(0)).sum())
        reuses = self._reuses_metrics(steps)
        squares = {pair.name: (pair.rank, pair.rank) for group in self._groups for pair in group.pairs if reuses}
        matrices = {f"{key}.{name}": square for name, square in squares.items() for key in ("S", "S_inverse")}
        check_shapes({"steps": (), **matrices}, tensors)
        self._steps = steps
        self._metrics = [(g.stacked("S", tensors), g.stacked("S_inverse", tensors)) for g in self._groups if reuses]

    def _metric(self, group: PairGroup) -> tuple[Tensor, Tensor]:
        # Elsewhere than on a CPU, asking whether all are valid would be a synchronization.
        if self._precision is torch.float32 and group.device.type == "cpu":
            metric = balancing_metric(*group.grams(torch.float32), self._damping, TRUSTED_PIVOT)
            if metric.valid.all():
                return metric.S, metric.S_inverse
        metric = balancing_metric(*group.grams(torch.float64), self._damping)
        return metric.S, metric.S_inverse

    def _reuses_metrics(self, steps: int) -> bool:
        """Whether the step that follows `steps` steps applies an S computed before."""
        return steps > self._warmup and (steps - self._warmup) % self._interval != 0
