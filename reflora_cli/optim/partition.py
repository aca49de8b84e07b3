"""An optimizer made of optimizers, each of which owns some of the parameters, with one update rule around them all.

AdamW in 32 or 8 bits, gradient descent, and optimizers of pairs such as LoRA-RITE are equals here. What the partition
gives is all that a training loop, a scheduler, a gradient scaler or a checkpoint asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.optim.member import Member
from reflora_cli.optim.rule import UpdateRule, check_shapes


class Partition(torch.optim.Optimizer):
    """A torch optimizer that lets `rule` act, then all of its members, then the rule again.

    members: at least one, none without parameters, and no parameter in two of them (ValueError). The partition's
    `param_groups` are theirs, in their order, and `state` is one for all. A group that is added later goes to the last
    of them.

    A gradient scaler that finds an overflow does not call `step`, so neither a member nor the rule counts that step.
    That holds for torch's `fused` members too: their `_step_supports_amp_scaling`, by which a scaler would call `step`
    even then and leave unscaling to them, is not the partition's, so that a rule never sees scaled gradients.
    """

    def __init__(self, members: Sequence[Member], rule: UpdateRule) -> None:
        self._members: Sequence[Member] = ()
        super().__init__([group for member in members for group in member.param_groups], {})
        self.defaults = dict(members[-1].defaults)
        self._members = tuple(members)
        self.rule = rule
        for member in members:
            member.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take one step; a closure computes loss and gradients first, for the rule to see, and its loss is returned."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.rule.before_step()
        for member in self._members:
            member.step()
        self.rule.after_step(self.state)
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; the last member takes it over."""
        if self._members:
            self._members[-1].add_param_group(param_group)
        super().add_param_group(param_group)

    def tensors(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return a copy of all that is remembered, on the CPU, by the names of the parameters.

            step.<parameter>         the updates it has had, float32; 0 and nothing else if it never had a gradient
            <key>.<parameter>        what its member remembers: for AdamW the moments `exp_avg` and `exp_avg_sq`
            rule.<key>               what the update rule remembers

        Raises ValueError when `parameters` are not those of the optimizer.
        """
        owners = self._owners(parameters)
        tensors = {f"rule.{key}": tensor for key, tensor in self.rule.tensors().items()}
        for name, parameter in parameters.items():
            state = self.state.get(parameter, {})
            tensors[f"step.{name}"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32)
            if state:
                tensors |= {f"{key}.{name}": state[key] for key in owners[name].fresh_state(parameter)}
        return {key: tensor.detach().to("cpu", copy=True).contiguous() for key, tensor in tensors.items()}

    def load_tensors(self, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave, to the bit.

        Raises ValueError, and changes nothing, unless names and shapes agree.
        """
        owners = self._owners(parameters)
        rule = {key.removeprefix("rule."): tensor for key, tensor in tensors.items() if key.startswith("rule.")}
        own = {key: tensor for key, tensor in tensors.items() if not key.startswith("rule.")}
        stepped = [name for name in parameters if tensors.get(f"step.{name}", torch.tensor(0)).sum() > 0]
        fresh = {name: owners[name].fresh_state(parameters[name]) for name in stepped}
        shapes: dict[str, tuple[int, ...]] = {f"step.{name}": () for name in parameters}
        shapes |= {f"{key}.{name}": tuple(begun.shape) for name, state in fresh.items() for key, begun in state.items()}
        check_shapes(shapes, own)
        self.rule.load_tensors(rule)
        for parameter in parameters.values():
            self.state.pop(parameter, None)
        for name, state in fresh.items():
            for key, begun in state.items():
                begun.copy_(tensors[f"{key}.{name}"])
            self.state[parameters[name]].update(state)
            owners[name].count_steps(parameters[name], tensors[f"step.{name}"])

    def state_dict(self) -> dict[str, Any]:
        """Return `state` and `param_groups` as torch defines them, and `rule`: what the rule remembers, by name.

        `torch.save` and `torch.load(weights_only=True)` carry it. A run that is continued from it neither repeats the
        rule's warm-up nor loses matrices that are still in use.
        """
        return {**super().state_dict(), "rule": self.rule.tensors()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError, and changes nothing, for the state of another optimizer:
        one with other groups, or one saved without a rule when this rule keeps tensors."""
        found = [len(group["params"]) for group in state_dict["param_groups"]]
        expected = [len(group["params"]) for group in self.param_groups]
        if found != expected:
            raise ValueError(f"the saved groups have {found} parameters, and those of this optimizer {expected}")
        self.rule.load_tensors(state_dict.get("rule", {}))
        groups = iter(state_dict["param_groups"])
        for member in self._members:
            own = [next(groups) for _ in member.param_groups]
            numbers = {number for group in own for number in group["params"]}
            state = {number: value for number, value in state_dict["state"].items() if number in numbers}
            member.load_state_dict({"state": state, "param_groups": own})
        self.param_groups = [group for member in self._members for group in member.param_groups]
        self.state.clear()
        for member in self._members:
            self.state.update(member.state)
            member.state = self.state

    def owned(self) -> Iterator[tuple[Member, nn.Parameter]]:
        """Yield every parameter with the member that steps it."""
        for member in self._members:
            for group in member.param_groups:
                for parameter in group["params"]:
                    yield member, parameter

    def _owners(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, Member]:
        """Return the member of every parameter. Raises ValueError when `parameters` are not those of the optimizer."""
        owners = {id(parameter): member for member, parameter in self.owned()}
        named = {id(parameter) for parameter in parameters.values()}
        if owners.keys() != named:
            raise ValueError(
                f"{len(owners.keys() - named)} parameters of the optimizer have no name, "
                f"and {len(named - owners.keys())} named parameters are not in the optimizer"
            )
        return {name: owners[id(parameter)] for name, parameter in parameters.items()}
