"""AdamW that lets an update rule act around its step, and its whole state as tensors with names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from reflora_cli.optim.rule import UpdateRule, check_shapes
from reflora_cli.optim.ruled import Ruled, evaluated

MOMENTS = ("exp_avg", "exp_avg_sq")


class PairAdamW(Ruled, torch.optim.AdamW):
    """torch's AdamW between `rule.before_step` and `rule.after_step`.

    groups: parameter groups, each with its own `lr` and `weight_decay`.

    A gradient scaler that finds an overflow does not call `step`, so neither AdamW nor the rule counts that step. This
    holds for AdamW's default implementations only, and therefore its `fused` one cannot be asked for: with that the
    scaler calls `step` all the same, and a rule would see scaled gradients.
    """

    def __init__(
        self,
        groups: Sequence[dict[str, Any]],
        rule: UpdateRule,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(groups, betas=betas, eps=eps, weight_decay=0.0)
        self.rule = rule

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One optimizer step; a closure computes loss and gradients first, and its loss is returned."""
        loss = evaluated(closure)
        self.rule.before_step()
        super().step()
        self.rule.after_step(self.state)
        return loss

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Both of Adam's moments, at zero."""
        return {moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS}

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had."""
        self.state[parameter]["step"] = steps.clone()


class PairOptimizer(Protocol):
    """What a checkpoint needs to know of an optimizer with a rule around its step."""

    rule: UpdateRule
    state: Any
    param_groups: Any

    def step(self, closure: Any = None) -> Any:
        """One optimizer step."""

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What it remembers of a parameter beside the number of steps, before the first one."""

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had."""


def state_tensors(optimizer: PairOptimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """A copy of all that the optimizer remembers, on the CPU, by the names of its parameters.

        step.<parameter>         the updates it has had, float32; 0 without moments when it never had a gradient
        exp_avg.<parameter>      Adam's first moment
        exp_avg_sq.<parameter>   Adam's second moment; an 8-bit optimizer has states and scales instead, and SGD
                                 `momentum_buffer` if it has momentum
        rule.<key>               what the update rule remembers

    Raises ValueError when `parameters` are not those of the optimizer.
    """
    _check_same_parameters(optimizer, parameters)
    tensors = {f"rule.{key}": tensor for key, tensor in optimizer.rule.tensors().items()}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        tensors[f"step.{name}"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32)
        if state:
            tensors |= {f"{key}.{name}": state[key] for key in optimizer.fresh_state(parameter)}
    return {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}


def load_state_tensors(
    optimizer: PairOptimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `state_tensors` gave, to the bit.

    Raises ValueError, and leaves the parameters' state as it is, unless names and shapes agree.
    """
    _check_same_parameters(optimizer, parameters)
    rule = {key.removeprefix("rule."): tensor for key, tensor in tensors.items() if key.startswith("rule.")}
    moments = {key: tensor for key, tensor in tensors.items() if not key.startswith("rule.")}
    stepped = [name for name in parameters if tensors.get(f"step.{name}", torch.tensor(0)).sum() > 0]
    fresh = {name: optimizer.fresh_state(parameters[name]) for name in stepped}
    shapes: dict[str, tuple[int, ...]] = {f"step.{name}": () for name in parameters}
    shapes |= {f"{key}.{name}": tuple(own.shape) for name, state in fresh.items() for key, own in state.items()}
    check_shapes(shapes, moments)
    optimizer.rule.load_tensors(rule)
    for parameter in parameters.values():
        optimizer.state.pop(parameter, None)
    for name, state in fresh.items():
        for key, own in state.items():
            own.copy_(tensors[f"{key}.{name}"])
        optimizer.state[parameters[name]].update(state)
        optimizer.count_steps(parameters[name], tensors[f"step.{name}"])


def _check_same_parameters(optimizer: PairOptimizer, parameters: Mapping[str, nn.Parameter]) -> None:
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    named = {id(parameter) for parameter in parameters.values()}
    if own != named:
        raise ValueError(
            f"{len(own - named)} parameters of the optimizer have no name, "
            f"and {len(named - own)} named parameters are not in the optimizer"
        )
