"""From a method and its parameters to the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reflora_cli.factors.pair import FactorPair, Triplets
from reflora_cli.methods.layers import AdaLoRALayer
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.updates import (
    BalancedUpdate,
    LoRAFAUpdate,
    LoRAProUpdate,
    LoRARITEUpdate,
    PlainUpdate,
    RefLoRASUpdate,
    RefLoRAUpdate,
    ScaledGDUpdate,
    UpdateChoice,
)
from reflora_cli.optim.balanced import BalancedRule, keep_moments, transport_moments
from reflora_cli.optim.budget import Budget, BudgetRule
from reflora_cli.optim.groups import Rates, parameter_groups, split_groups
from reflora_cli.optim.lora_fa import ProjectedRule
from reflora_cli.optim.lora_pro import LoRAProRule
from reflora_cli.optim.lora_pro_dense import DenseLoRAProMember
from reflora_cli.optim.lora_rite import LoRARITEMember
from reflora_cli.optim.member import Member
from reflora_cli.optim.pair_adamw import AdamWMember
from reflora_cli.optim.pair_sgd import SGDMember
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.reflora_s import RefLoRASRule
from reflora_cli.optim.roles import Roles
from reflora_cli.optim.rule import PlainRule, UpdateRule
from reflora_cli.optim.scaled_gd import ScaledGDRule

__all__ = ["Rates", "build_optimizer"]


def build_optimizer(
    method: Method,
    roles: Roles,
    rates: Rates,
    course: UpdateRule | None = None,
) -> Partition:
    """Return the optimizer of all trained parameters, with the method's update rule on the pairs.

    course: the rule of a layer that changes during the run, which has no pairs; it stands in the update rule's place.
    Call it when the factors are on their device. RefLoRA-S without warm-up rescales factors that are not zero.
    """
    groups = parameter_groups(roles, rates, method.lr_ratio)
    members: list[Member] = []
    if method.update.is_optimizer:
        of_pairs, groups = split_groups(groups, roles.pairs)
        members.append(build_pair_member(method.update, of_pairs, roles.pairs))
    if groups:
        members.append(build_member(groups, rates))
    return Partition(members, course or build_rule(method.update, roles.pairs))


def build_member(groups: Sequence[dict[str, Any]], rates: Rates) -> Member:
    """Return the optimizer of any parameters."""
    if rates.optimizer is Optimizer.ADAMW:
        return AdamWMember(groups)
    if rates.optimizer is Optimizer.SGD:
        return SGDMember(groups, rates.momentum)
    from reflora_cli.optim.pair_adamw_8bit import AdamW8bitMember

    return AdamW8bitMember(groups, is_paged=rates.optimizer is Optimizer.PAGED_ADAMW_8BIT)


def build_pair_member(update: UpdateChoice, groups: Sequence[dict[str, Any]], pairs: Sequence[FactorPair]) -> Member:
    """Return the optimizer of the pairs, for an update that is one. groups: those of the factors alone."""
    match update:
        case LoRARITEUpdate():
            return LoRARITEMember(groups, pairs, update.damping_share)
        case LoRAProUpdate(moments="dense"):
            return DenseLoRAProMember(groups, pairs, update.damping_share)
        case _:
            raise ValueError(f"update {update} acts around another optimizer's step")


def build_rule(update: UpdateChoice, pairs: Sequence[FactorPair]) -> UpdateRule:  # noqa: PLR0911 (one for each rule)
    """Return the update rule for these pairs."""
    match update:
        case PlainUpdate() | LoRARITEUpdate():
            return PlainRule()
        case RefLoRAUpdate():
            return RefLoRARule(pairs, update.warmup_steps, update.interval, update.damping_share)
        case RefLoRASUpdate():
            return RefLoRASRule(pairs, update.warmup_steps, update.interval)
        case ScaledGDUpdate():
            return ScaledGDRule(pairs, update.warmup_steps, update.interval, update.damping_share)
        case BalancedUpdate():
            moments = transport_moments if update.transports_moments else keep_moments
            return BalancedRule(pairs, update.warmup_steps, update.interval, moments)
        case LoRAProUpdate():
            return PlainRule() if update.is_optimizer else LoRAProRule(pairs, update.damping_share)
        case LoRAFAUpdate():
            return ProjectedRule(pairs) if update.gradients == "projected" else PlainRule()


def build_course(method: Method, triplets: Sequence[Triplets], steps: int) -> UpdateRule | None:
    """Return what changes the method's layers during a run of so many steps; None where nothing does."""
    match method.layer:
        case AdaLoRALayer() as layer:
            first, (initial, final) = sum(len(own.E) for own in triplets), layer.phases(steps)
            last = layer.target(method.rank) * len(triplets)
            budget = Budget(first, last, initial, final, steps, layer.interval)
            return BudgetRule(triplets, budget, (layer.beta1, layer.beta2), layer.penalty)
        case _:
            return None
