"""From a method and its parameters to the optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, assert_never

from torch import nn

from reflora_cli.factors.pair import FactorPair, Triplets
from reflora_cli.methods.layers import AdaLoRALayer
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer
from reflora_cli.methods.updates import (
    AltLoRAUpdate,
    BalancedUpdate,
    LoRAFAUpdate,
    LoRAProUpdate,
    LoRARITEUpdate,
    NormalizedScaledGDUpdate,
    PlainUpdate,
    PrecLoRAUpdate,
    RefLoRASUpdate,
    RefLoRAUpdate,
    ScaledGDUpdate,
    StiefelUpdate,
    UpdateChoice,
)
from reflora_cli.optim.altlora import AltLoRAMember, BothMoments, FirstMoment
from reflora_cli.optim.balanced import BalancedRule, keep_moments, transport_moments
from reflora_cli.optim.budget import Budget, BudgetRule
from reflora_cli.optim.groups import Rates, parameter_groups, split_groups
from reflora_cli.optim.lora_fa import ProjectedRule
from reflora_cli.optim.lora_pro import LoRAProRule
from reflora_cli.optim.lora_pro_dense import DenseLoRAProMember
from reflora_cli.optim.lora_rite import LoRARITEMember
from reflora_cli.optim.member import Member
from reflora_cli.optim.normalized_scaled_gd import NormalizedScaledGDRule
from reflora_cli.optim.pair_adamw import AdamWMember
from reflora_cli.optim.pair_sgd import SGDMember
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.preclora import PrecLoRARule
from reflora_cli.optim.reflora import RefLoRARule
from reflora_cli.optim.reflora_s import RefLoRASRule
from reflora_cli.optim.roles import Roles
from reflora_cli.optim.rule import PlainRule, UpdateRule
from reflora_cli.optim.scaled_gd import ScaledGDRule
from reflora_cli.optim.stiefel import StiefelRule, by_geodesic, by_polar, commonest_height

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
    return Partition(members, course or build_rule(method.update, roles, rates.hidden_size))


def build_member(groups: Sequence[dict[str, Any]], rates: Rates) -> Member:
    """Return the optimizer of any parameters."""
    if rates.optimizer is Optimizer.ADAMW:
        return AdamWMember(groups)
    if rates.optimizer is Optimizer.SGD:
        return SGDMember(groups, rates.momentum)
    from reflora_cli.optim.pair_adamw_8bit import BitsAndBytesMember

    bits: Literal[8, 32] = 8 if rates.optimizer.has_small_moments else 32
    return BitsAndBytesMember(groups, is_paged=rates.optimizer.is_paged, bits=bits)


def build_pair_member(update: UpdateChoice, groups: Sequence[dict[str, Any]], pairs: Sequence[FactorPair]) -> Member:
    """Return the optimizer of the pairs, for an update that is one. groups: those of the factors alone."""
    match update:
        case LoRARITEUpdate():
            return LoRARITEMember(groups, pairs, update.damping_share)
        case LoRAProUpdate(moments="dense"):
            return DenseLoRAProMember(groups, pairs, update.damping_share)
        case AltLoRAUpdate():
            moments = BothMoments() if update.moments == "both" else FirstMoment()
            return AltLoRAMember(groups, pairs, update.damping_share, moments)
        case _:
            raise ValueError(f"update {update} acts around another optimizer's step")


def build_rule(update: UpdateChoice, roles: Roles, hidden_size: int | None = None) -> UpdateRule:
    """Return the update rule for a model's pairs or frames. hidden_size: the width of its hidden states, if known."""
    rule: UpdateRule = PlainRule()
    pairs = roles.pairs
    match update:
        case PlainUpdate() | LoRARITEUpdate() | LoRAProUpdate(moments="dense") | AltLoRAUpdate():
            pass
        case LoRAFAUpdate(gradients="own"):
            pass
        case RefLoRAUpdate():
            rule = RefLoRARule(pairs, update.warmup_steps, update.interval, update.damping_share)
        case RefLoRASUpdate():
            rule = RefLoRASRule(pairs, update.warmup_steps, update.interval)
        case ScaledGDUpdate():
            rule = ScaledGDRule(pairs, update.warmup_steps, update.interval, update.damping_share)
        case BalancedUpdate():
            moments = transport_moments if update.transports_moments else keep_moments
            rule = BalancedRule(pairs, update.warmup_steps, update.interval, moments)
        case LoRAProUpdate():
            rule = LoRAProRule(pairs, update.damping_share)
        case LoRAFAUpdate():
            rule = ProjectedRule(pairs)
        case PrecLoRAUpdate():
            rule = PrecLoRARule(pairs, update.warmup_steps, update.interval, update.absolute_damping)
        case NormalizedScaledGDUpdate():
            rule = NormalizedScaledGDRule(pairs, update.warmup_steps, update.interval, update.absolute_damping)
        case StiefelUpdate():
            rule = stiefel_rule(update, [*roles.frames.values()], hidden_size)
        case never:
            assert_never(never)
    return rule


def stiefel_rule(update: StiefelUpdate, frames: Sequence[nn.Parameter], hidden_size: int | None) -> StiefelRule:
    """Return the rule of orthonormal frames."""
    retract = by_polar if update.retraction == "polar" else by_geodesic
    match update.width:
        case "hidden":
            return StiefelRule(frames, hidden_size or commonest_height(frames), retract)
        case "none":
            return StiefelRule(frames, None, retract)
        case width:
            return StiefelRule(frames, width, retract)


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
