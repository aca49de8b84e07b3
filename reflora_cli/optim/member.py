"""What one optimizer of a partition is: the owner of some of the parameters and of all that is remembered of them."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn


class Member(Protocol):
    """A torch optimizer over some of the parameters that can say what it remembers of each of them.

    state and param_groups are those of torch's optimizers. `Partition` sets them, so that all members share one state
    and the groups are those which schedulers see: a member must look them up in every step.
    """

    state: Any
    param_groups: Any
    defaults: dict[str, Any]

    def step(self) -> Any:
        """Take one step with the gradients at hand."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Take over the parameters of one more group."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Restore `state` and `param_groups` as torch's optimizers do; states may be numbered from any number on."""

    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return what is remembered of a parameter before its first step, without the number of its steps."""

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a parameter has had."""
