"""From a method and its parameters to the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from reflora_cli.factors import FactorPair
from reflora_cli.methods import Method, Refactor, Update
from reflora_cli.optim.groups import Rates, parameter_groups
from reflora_cli.optim.pair_adamw import PairAdamW, PairOptimizer
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.reflora import RefLoRA
from reflora_cli.optim.reflora_s import RefLoRAS
from reflora_cli.optim.rule import PlainRule, UpdateRule

__all__ = ["Rates", "build_optimizer"]

AUTO_DAMPING = 1e-3
"""In half precision too. Damping removes noise of the gradients, which S^-1 multiplies by cond(B), and adds a bias. On
all-MiniLM-L6-v2 with bfloat16 gradients, S^-1 gA was wrong by 1.3% (median) and 9% (worst module) with 1e-3 as with
none, and by 1.4% and 65% with 1e-2: there the bias is larger than the noise."""


def build_optimizer(
    method: Method,
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
    rule = build_rule(method, pairs)
    if rates.optimizer == "adamw":
        return PairAdamW(groups, rule)
    if rates.optimizer == "sgd":
        return PairSGD(groups, rule, rates.momentum)
    from reflora_cli.optim.pair_adamw_8bit import PairAdamW8bit

    return PairAdamW8bit(groups, rule, is_paged=rates.optimizer == "paged_adamw_8bit")


def build_rule(method: Method, pairs: Sequence[FactorPair]) -> UpdateRule:
    """The update rule of `method` for these pairs."""
    refactor = method.refactor
    match method.update:
        case Update.PLAIN:
            return PlainRule()
        case Update.REFLORA:
            return RefLoRA(pairs, refactor.warmup_steps, refactor.interval, damping(refactor))
        case Update.REFLORA_S:
            return RefLoRAS(pairs, refactor.warmup_steps, refactor.interval)


def damping(refactor: Refactor) -> float:
    """The share of the largest singular value that is smoothed away; `auto` is AUTO_DAMPING."""
    return AUTO_DAMPING if refactor.damping == "auto" else refactor.damping
