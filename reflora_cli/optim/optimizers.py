"""Ordinary torch optimizers over a model's own layers or PEFT's: `RefLoRA` on AdamW, `RefLoRASGD` on SGD, `LoRARITE`.

They find the pairs of factors in the model and train everything else that requires a gradient plainly beside them.
They work in any loop, with torch's schedulers, gradient clipping and gradient scalers, and in the Hugging Face Trainer
as `Trainer(..., optimizers=(optimizer, None))`; there the rates of TrainingArguments count for nothing, while its
clipping and schedule act as on any optimizer. Gradients may be averaged over processes (DDP), but parameters must be
whole, as a rule needs both factors of a pair: no FSDP, no DeepSpeed ZeRO-3.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from reflora_cli.ground.errors import InputError, Problem, check_argument
from reflora_cli.methods.arguments import chosen_update
from reflora_cli.methods.updates import UpdateChoice, UpdateKind
from reflora_cli.optim.build import build_rule
from reflora_cli.optim.groups import Rates, parameter_groups, split_groups
from reflora_cli.optim.lora_rite import LoRARITEMember
from reflora_cli.optim.member import Member
from reflora_cli.optim.pair_adamw import AdamWMember, PairAdamW
from reflora_cli.optim.pair_sgd import PairSGD
from reflora_cli.optim.partition import Partition
from reflora_cli.optim.roles import Roles, roles_of, single_factors
from reflora_cli.optim.rule import PlainRule, UpdateRule


class RefLoRA(PairAdamW):
    """AdamW with RefLoRA around its step (Zhang, Li, Giannakis, NeurIPS 2025, arXiv 2505.18877).

    For each pair A [r, in], B [out, r] the gradients become S^-1 gA and gB S before AdamW's step, where S [r, r] is the
    positive definite root of S (A A^T) S = B^T B. Update `reflora-s` is the paper's scalar variant, `scaled-gd`
    multiplies by the inverse Grams instead (arXiv 2005.08898, 2402.02347), and `plain` is no rule.
    """

    def __init__(
        self,
        model: nn.Module | Roles,
        lr: float = 1e-3,
        *,
        update: UpdateKind = "reflora",
        warmup_steps: int = 100,
        interval: int = 1,
        damping: float | Literal["auto"] = "auto",
        lr_ratio: float = 1.0,
        head_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Raises InputError for a model without trained pairs and for values out of range.

        model: with its adapters in place, already on its device or moved there as a whole later.
        lr: learning rate of A, of DoRA's magnitudes, and, times `lr_ratio`, of B (LoRA+, arXiv 2402.12354).
        update: a kind of update rule (`methods/updates.py`); `plain` is no rule.
        warmup_steps: plain optimizer steps before the rule acts; at B = 0 there is no S and no inverse.
        interval: steps between two computations of the rule's matrices, or between two refactorings of `reflora-s`.
        damping: singular values of BA are smoothed by this share of the largest; auto: 1e-3.
        head_lr: learning rate of all that is trained beside the adapters; None: `lr`.
        weight_decay: decoupled; never of vectors (biases, norms, magnitudes).
        betas, eps: AdamW's.
        """
        roles = found(model)
        settings = {"warmup_steps": warmup_steps, "interval": interval, "damping": damping}
        rule = rule_of(roles, update, settings)
        super().__init__(groups_of(roles, Rates(lr, head_lr, weight_decay), lr_ratio), rule, betas, eps)


class RefLoRASGD(PairSGD):
    """Gradient descent with RefLoRA around its step: BA then moves alike from all of its factorizations, as the paper's
    theorem says, if gradients are not clipped."""

    def __init__(
        self,
        model: nn.Module | Roles,
        lr: float = 1e-3,
        *,
        update: UpdateKind = "reflora",
        warmup_steps: int = 100,
        interval: int = 1,
        damping: float | Literal["auto"] = "auto",
        lr_ratio: float = 1.0,
        head_lr: float | None = None,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
    ) -> None:
        """Arguments and errors are those of `RefLoRA`; weight decay is decoupled here too. momentum: 0 for none."""
        roles = found(model)
        settings = {"warmup_steps": warmup_steps, "interval": interval, "damping": damping}
        rule = rule_of(roles, update, settings)
        super().__init__(groups_of(roles, Rates(lr, head_lr, weight_decay), lr_ratio), rule, momentum)


class LoRARITE(Partition):
    """LoRA-RITE for the pairs (Yen et al. 2024, arXiv 2410.20625) and AdamW for all else.

    The path of BA depends neither on how it is factored nor on the scale of the loss, if gradients are not clipped.

    Rates are like AdamW's. The factors are kept balanced. There is no warm-up: at B = 0, A waits for one step.
    """

    def __init__(
        self,
        model: nn.Module | Roles,
        lr: float = 1e-3,
        *,
        damping: float | Literal["auto"] = "auto",
        lr_ratio: float = 1.0,
        head_lr: float | None = None,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        """Raises InputError for a model without trained pairs and for values out of range.

        damping: steps of A in directions weaker than this share of BA's largest singular value are shortened, and
        second moments are smoothed by it; auto: 1e-3. eps: that of AdamW. All other arguments are those of `RefLoRA`.
        """
        roles = found(model)
        update = chosen_update("lora-rite", {"damping": damping})
        check_pairs(roles, update, stacklevel=3)
        groups = groups_of(roles, Rates(lr, head_lr, weight_decay), lr_ratio)
        of_pairs, of_others = split_groups(groups, roles.pairs)
        members: list[Member] = [LoRARITEMember(of_pairs, roles.pairs, update.damping_share or 0.0, betas)]
        if of_others:
            members.append(AdamWMember(of_others, betas, eps))
        super().__init__(members, PlainRule())


def found(model: nn.Module | Roles) -> Roles:
    """Return the roles of a model's parameters, or those that were made by hand. Raises InputError for anything
    else."""
    if isinstance(model, Roles):
        return model
    if isinstance(model, nn.Module):
        return roles_of(model)
    raise InputError(
        Problem(
            "plain parameters do not tell which of them are the A and B of one pair",
            where="the optimizer's first argument",
            found=type(model).__name__,
            expected="the model, or Roles",
            remedy="pass the model itself instead of model.parameters()",
        )
    )


def groups_of(roles: Roles, rates: Rates, lr_ratio: float) -> list[dict[str, Any]]:
    """Return parameter groups by role. Raises InputError for rates out of range."""
    numbers = {
        "lr": rates.learning_rate,
        "head_lr": rates.head_learning_rate or 0.0,
        "weight_decay": rates.weight_decay,
        "lr_ratio": lr_ratio,
    }
    for name, value in numbers.items():
        check_argument(math.isfinite(value) and value >= 0, name, value, "a number of at least 0")
    return parameter_groups(roles, rates, lr_ratio)


def rule_of(roles: Roles, kind: str, settings: Mapping[str, Any]) -> UpdateRule:
    """Return the rule of that kind for the pairs. Raises InputError as `chosen_update` and `check_pairs`, and for what
    is no rule."""
    update = chosen_update(kind, settings)
    if update.is_optimizer:
        what = "it is an optimizer of its own, and no rule around another one"
        raise InputError(Problem(what, "update", repr(kind), remedy="use LoRARITE(model, ...)"))
    if update.holds_a:
        what, remedy = "it trains B alone, which the model decides", "call A.requires_grad_(False) on every A"
        raise InputError(Problem(what, "update", repr(kind), remedy=remedy))
    check_pairs(roles, update, stacklevel=4)
    return build_rule(update, roles)


def check_pairs(roles: Roles, update: UpdateChoice, stacklevel: int) -> None:
    """Raises InputError for an update that needs factors of full rank, where a pair's rank is larger than its weight.
    Raises InputError for one that acts on pairs where there are frames, and the reverse. Warns of factors on which it
    cannot act, at the caller that is `stacklevel` frames above."""
    if not update.is_plain and bool(roles.frames) != update.of_frames:
        what = f"update {update} is for {'orthonormal frames' if update.of_frames else 'pairs A, B'}"
        found = f"{len(roles.pairs)} pairs and {len(roles.frames)} frames"
        raise InputError(Problem(what, "update", found, remedy="update='stiefel' is the one for layer stella"))
    if not update.is_plain and (single := single_factors(roles)):
        shown = ", ".join([*single[:2], "..."] if len(single) > 2 else single)
        warnings.warn(
            f"{len(single)} factors have no partner to form a pair A, B and take plain steps: {shown}",
            stacklevel=stacklevel,
        )
    for pair in roles.pairs:
        if update.needs_full_rank and pair.rank > (most := min(pair.A.shape[1], pair.B.shape[0])):
            what = f"the rank is larger than the adapted weight allows: {update} needs A and B of full rank"
            raise InputError(Problem(what, pair.name, f"rank {pair.rank}", f"at most {most}"))
