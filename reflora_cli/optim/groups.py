"""Named parameter groups: which rate and which weight decay every trained parameter has.

LoRA+ (Hayou et al. 2024, arXiv 2402.12354) gives B a higher rate than A. Its authors' code, and PEFT's, tell factors by
their names and put every vector beside B, so that biases, norms and DoRA's magnitudes learn at B's rate. Here each
parameter's role is known from where it comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.methods.settings import Optimizer
from reflora_cli.optim.roles import Roles


@dataclass(frozen=True)
class Rates:
    """Peak learning rates, weight decay, and the optimizer that they are for.

    A head without a rate of its own has that of the adapters. momentum: that of sgd. hidden_size: the width of the
    model's hidden states, for which rates of frames are; None if it is not known.
    """

    learning_rate: float
    head_learning_rate: float | None
    weight_decay: float
    optimizer: Optimizer = Optimizer.ADAMW
    momentum: float = 0.0
    hidden_size: int | None = None


def parameter_groups(roles: Roles, rates: Rates, lr_ratio: float) -> list[dict[str, Any]]:
    """Return groups for a torch optimizer, each with `name`, `params`, `lr`, `initial_lr` and `weight_decay`; no empty
    ones.

        factors A, factors B       decayed; B at `lr_ratio` times the rate of A; no A that is held
        adapters                   what else adapters train near zero; the rate of A, decayed
        adapters, undecayed        DoRA's magnitudes and their like; the rate of A: they are not near zero
        frames                     orthonormal columns or rows; the rate of A: they cannot shrink
        head                       matrices among the `others`, at the head's rate, decayed
        head, undecayed            vectors and scalars among them: biases and norms

    Raises ValueError when a parameter would be in two groups.
    """
    rate, decay = rates.learning_rate, rates.weight_decay
    head_rate = rate if rates.head_learning_rate is None else rates.head_learning_rate
    matrices = [parameter for parameter in roles.others.values() if parameter.ndim >= 2]
    vectors = [parameter for parameter in roles.others.values() if parameter.ndim < 2]
    groups = [
        _group("factors A", [pair.A for pair in roles.pairs if pair.A.requires_grad], rate, decay),
        _group("factors B", [pair.B for pair in roles.pairs], rate * lr_ratio, decay),
        _group("adapters", list(roles.decayed.values()), rate, decay),
        _group("adapters, undecayed", list(roles.undecayed.values()), rate, 0.0),
        _group("frames", list(roles.frames.values()), rate, 0.0),
        _group("head", matrices, head_rate, decay),
        _group("head, undecayed", vectors, head_rate, 0.0),
    ]
    members = [id(parameter) for group in groups for parameter in group["params"]]
    if len(members) > len(set(members)):
        raise ValueError("a parameter is in two groups: it is shared between modules, or both a factor and a head")
    return [group for group in groups if group["params"]]


def split_groups(
    groups: Sequence[dict[str, Any]], pairs: Sequence[FactorPair]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the groups that hold factors of the pairs alone, and all others, in their order."""
    factors = {factor for pair in pairs for factor in (pair.A, pair.B)}
    of_pairs = [factors.issuperset(group["params"]) for group in groups]
    return (
        [group for group, is_theirs in zip(groups, of_pairs, strict=True) if is_theirs],
        [group for group, is_theirs in zip(groups, of_pairs, strict=True) if not is_theirs],
    )


def _group(name: str, parameters: list[nn.Parameter], rate: float, decay: float) -> dict[str, Any]:
    return {"name": name, "params": parameters, "lr": rate, "initial_lr": rate, "weight_decay": decay}
