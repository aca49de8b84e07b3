"""Gradient descent with a rule around its step: where RefLoRA's theorem lives.

With RefLoRA BA moves in the same way from all of its factorizations, momentum and decay included; gradients must not be
clipped, since their norm depends on the factorization. Under AdamW it does not: Adam divides every entry of a gradient
by its size, and entries depend on the factorization too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.optim.rule import UpdateRule
from reflora_cli.optim.ruled import Ruled, evaluated


class PairSGD(Ruled, torch.optim.SGD):
    """torch's SGD between `rule.before_step` and `rule.after_step`.

    groups: parameter groups, each with its own `lr` and `weight_decay`; momentum: 0 for none, without dampening.

    Weight decay is decoupled, as AdamW's: a parameter with a gradient is first multiplied by 1 - lr weight_decay.
    torch's SGD would add it to the gradient, behind the rule, where its effect would depend on how BA is factored.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], rule: UpdateRule, momentum: float) -> None:
        own = [{**group, "weight_decay": 0.0, "decoupled_decay": group["weight_decay"]} for group in groups]
        super().__init__(own, lr=0.0, momentum=momentum)
        self.rule = rule

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One optimizer step; a closure computes loss and gradients first, and its loss is returned."""
        loss = evaluated(closure)
        self.rule.before_step()
        for group in self.param_groups:
            moved: list[Tensor] = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["decoupled_decay"] and moved:
                torch._foreach_mul_(moved, 1 - group["lr"] * group["decoupled_decay"])
            for parameter in moved:
                self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
        super().step()
        self.rule.after_step(self.state)
        return loss

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """The momentum's sum, at zero, where there is momentum."""
        has_momentum = self.defaults["momentum"] != 0
        return {"momentum_buffer": torch.zeros_like(parameter, requires_grad=False)} if has_momentum else {}

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had."""
        self.state[parameter]["step"] = int(steps)
