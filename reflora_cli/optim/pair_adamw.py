"""AdamW with an update rule around its step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.optim.partition import Partition
from reflora_cli.optim.rule import UpdateRule

MOMENTS = ("exp_avg", "exp_avg_sq")


class AdamWMember(torch.optim.AdamW):
    """torch's AdamW in its default implementation, which says what it remembers.

    groups: parameter groups, each with its own `lr` and `weight_decay`.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        super().__init__(groups, betas=betas, eps=eps, weight_decay=0.0)

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return both of Adam's moments, at zero."""
        return {moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS}

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had."""
        self.state[parameter]["step"] = steps.clone()


class PairAdamW(Partition):
    """AdamW over all parameters, between `rule.before_step` and `rule.after_step`; arguments are AdamWMember's."""

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        rule: UpdateRule,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__([AdamWMember(groups, betas, eps)], rule)
