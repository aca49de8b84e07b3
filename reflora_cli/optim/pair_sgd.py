"""Gradient descent with a rule around its step: where RefLoRA's theorem lives.

With RefLoRA BA moves in the same way from all of its factorizations, momentum and decay included; gradients must not be
clipped, since their norm depends on the factorization. Under AdamW it does not: Adam divides every entry of a gradient
by its size, and entries depend on the factorization too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.optim.partition import Partition
from reflora_cli.optim.rule import UpdateRule


class SGDMember(torch.optim.SGD):
    """torch's SGD with decoupled weight decay, which says what it remembers.

    groups: parameter groups, each with its own `lr` and `weight_decay`; momentum: 0 for none, without dampening.

    Weight decay is decoupled, as AdamW's: a parameter with a gradient is first multiplied by 1 - lr weight_decay.
    torch's SGD would add it to the gradient, behind the rule, where its effect would depend on how BA is factored.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], momentum: float) -> None:
        own = [{**group, "weight_decay": 0.0, "decoupled_decay": group["weight_decay"]} for group in groups]
        super().__init__(own, lr=0.0, momentum=momentum)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand."""
        for group in self.param_groups:
            moved: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["decoupled_decay"] and moved:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["decoupled_decay"])
            for parameter in moved:
                self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
        super().step()

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return the momentum's sum, at zero, where there is momentum."""
        has_momentum = self.defaults["momentum"] != 0
        return {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)} if has_momentum else {}

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had."""
        self.state[parameter]["step"] = int(steps)


class PairSGD(Partition):
    """Gradient descent over all parameters, between `rule.before_step` and `rule.after_step`; the other arguments are
    SGDMember's."""

    def __init__(self, groups: Sequence[dict[str, Any]], rule: UpdateRule, momentum: float) -> None:
        super().__init__([SGDMember(groups, momentum)], rule)
