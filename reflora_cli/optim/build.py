"""From a method and its parameters to the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from torch import nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.methods.axes import Update
from reflora_cli.methods.settings import Optimizer
from reflora_cli.optim.groups import Rates, parameter_groups
from reflora_cli.optim.pair_adamw import PairAdamW, PairOptimizer
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.reflora_s import RefLoRASRule
from reflora_cli.optim.rule import PlainRule, UpdateRule
from reflora_cli.optim.scaled_gd import ScaledGDRule

__all__ = ["Rates", "build_optimizer"]

AUTO_DAMPING = 1e-3
"""In half precision too. Damping removes noise of the gradients, which S^-1 multiplies by cond(B), and adds a bias. On
all-MiniLM-L6-v2 with bfloat16 gradients, S^-1 gA was wrong by 1.3% (median) and 9% (worst module) with 1e-3 as with
none, and by 1.4% and 65% with 1e-2: there the bias is larger than the noise."""


class Refactoring(Protocol):
    """When and how update rules act: a recipe's `method.refactor`, or `optimizers.Timing`."""

    @property
    def warmup_steps(self) -> int: ...
    @property
    def interval(self) -> int: ...
    @property
    def damping(self) -> float | Literal["auto"]: ...


class Updating(Protocol):
    """What building an optimizer asks of a method. lr_ratio: the learning rate of B over that of A (LoRA+)."""

    @property
    def update(self) -> Update: ...
    @property
    def lr_ratio(self) -> float: ...
    @property
    def refactor(self) -> Refactoring: ...


def build_optimizer(
    method: Updating,
    pairs: Sequence[FactorPair],
    magnitudes: Mapping[str, nn.Parameter],
    others: Mapping[str, nn.Parameter],
    rates: Rates,
) -> PairOptimizer:
    """The optimizer of the pairs, DoRA's `magnitudes` and the `others` (heads), with the method's update rule on the
    pairs.

    Call it when the factors are on their device. RefLoRA-S without warm-up rescales factors that are not zero.
    """
    groups = parameter_groups(pairs, magnitudes, others, rates, method.lr_ratio)
    rule = build_rule(method.update, pairs, method.refactor)
    if rates.optimizer is Optimizer.ADAMW:
        return PairAdamW(groups, rule)
    if rates.optimizer is Optimizer.SGD:
        return PairSGD(groups, rule, rates.momentum)
    from reflora_cli.optim.pair_adamw_8bit import PairAdamW8bit

    return PairAdamW8bit(groups, rule, is_paged=rates.optimizer is Optimizer.PAGED_ADAMW_8BIT)


def build_rule(update: Update, pairs: Sequence[FactorPair], refactor: Refactoring) -> UpdateRule:
    """The update rule for these pairs."""
    match update:
        case Update.PLAIN:
            return PlainRule()
        case Update.REFLORA:
            return RefLoRARule(pairs, refactor.warmup_steps, refactor.interval, damping(refactor))
        case Update.REFLORA_S:
            return RefLoRASRule(pairs, refactor.warmup_steps, refactor.interval)
        case Update.SCALED_GD:
            return ScaledGDRule(pairs, refactor.warmup_steps, refactor.interval, damping(refactor))


def damping(refactor: Refactoring) -> float:
    """The share of the largest singular value that is smoothed away; `auto` is AUTO_DAMPING."""
    return AUTO_DAMPING if refactor.damping == "auto" else refactor.damping
