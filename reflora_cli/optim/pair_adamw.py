"""AdamW with an update rule around its step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.optim.partition import Partition
from reflora_cli.optim.rule import UpdateRule

MOMENTS = ("exp_avg", "exp_avg_sq")


def runs_fused(groups: Sequence[dict[str, Any]]) -> bool:
    """Whether all parameters are on a CUDA device, where one kernel takes the step of many tensors: hundreds of small
    factors would otherwise keep the host busy. Elsewhere torch's default stays, whose results are known to the bit.
    """
    return all(parameter.is_cuda for group in groups for parameter in group["params"])


class AdamWMember(torch.optim.AdamW):
    """torch's AdamW, which says what it remembers: fused on CUDA devices, in its default implementation elsewhere.

    groups: parameter groups, each with its own `lr` and `weight_decay`.

    A gradient scaler that is given a fused optimizer leaves unscaling and skipping to its kernel, too late for a rule.
    So such a member stands in a `Partition`, and is never given to a scaler itself.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:
        fused = True if runs_fused(groups) else None
        super().__init__(groups, betas=betas, eps=eps, weight_decay=0.0, fused=fused)

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return both of Adam's moments, at zero."""
        return {moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS}

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had; a fused step counts on the parameter's device."""
        device = parameter.device if self.defaults["fused"] else steps.device
        self.state[parameter]["step"] = steps.to(device, copy=True)


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
