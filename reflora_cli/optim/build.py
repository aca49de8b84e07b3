"""From a method and its parameters to the optimizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from reflora_cli.factors import FactorPair
from reflora_cli.methods import Method, Refactor, Update
from reflora_cli.optim.groups import Rates, parameter_groups
from reflora_cli.optim.pair_adamw import PairAdamW, PairOptimizer
from reflora_cli.optim.reflora import RefLoRA
from reflora_cli.optim.reflora_s import RefLoRAS
from reflora_cli.optim.rule import PlainRule, UpdateRule

__all__ = ["Rates", "build_optimizer"]


def build_optimizer(
    method: Method,
    pairs: Sequence[FactorPair],
    magnitudes: Mapping[str, nn.Parameter],
    others: Mapping[str, nn.Parameter],
    rates: Rates,
    *,
    half_precision: bool,
) -> PairOptimizer:
    """AdamW over the pairs, DoRA's `magnitudes` and the `others` (heads), with the method's update rule on the pairs.

    half_precision: the forward pass runs in bfloat16 or float16, whose noise in the gradients asks for more damping.

    Call it when the factors are on their device. RefLoRA-S without warm-up rescales factors that are not zero.
    """
    groups = parameter_groups(pairs, magnitudes, others, rates, method.lr_ratio)
    rule = build_rule(method, pairs, half_precision)
    if rates.optimizer == "adamw":
        return PairAdamW(groups, rule)
    from reflora_cli.optim.pair_adamw_8bit import PairAdamW8bit

    return PairAdamW8bit(groups, rule, is_paged=rates.optimizer == "paged_adamw_8bit")


def build_rule(method: Method, pairs: Sequence[FactorPair], half_precision: bool) -> UpdateRule:
    """The update rule of `method` for these pairs."""
    refactor = method.refactor
    match method.update:
        case Update.PLAIN:
            return PlainRule()
        case Update.REFLORA:
            return RefLoRA(pairs, refactor.warmup_steps, refactor.interval, damping(refactor, half_precision))
        case Update.REFLORA_S:
            return RefLoRAS(pairs, refactor.warmup_steps, refactor.interval)


def damping(refactor: Refactor, half_precision: bool) -> float:
    """The share of the largest singular value that `auto` stands for.

    A gradient rounded to bfloat16 has a relative error of 2e-3, which S^-1 multiplies by cond(B): with cond(B) = 3000
    the preconditioned gradient is wrong by 40 % undamped, and by 4 % with 1e-2. Float32 does well with 1e-3.
    """
    if refactor.damping == "auto":
        return 1e-2 if half_precision else 1e-3
    return refactor.damping
