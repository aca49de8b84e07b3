"""What optimizers share that step the pairs of factors themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.stacks import PairGroup, group_pairs, groups_with_gradients

Settings = Mapping[nn.Parameter, dict[str, Any]]
"""The parameter group of every factor."""


class PairMember(torch.optim.Optimizer, ABC):
    """A member of a partition whose groups hold the factors of `pairs` and nothing else.

    groups: parameter groups with `lr` and `weight_decay`, which may differ between A and B. defaults: what else a group
    says, where it does not say it itself.

    A pair of which a factor has no gradient stays as it is.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], pairs: Sequence[FactorPair], defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        self._pairs, self._groups = tuple(pairs), group_pairs(pairs)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step with the gradients at hand."""
        settings = {parameter: group for group in self.param_groups for parameter in group["params"]}
        for group in groups_with_gradients(self._groups, self._pairs):
            self.step_pairs(group, settings)

    @abstractmethod
    def step_pairs(self, group: PairGroup, settings: Settings) -> None:
        """Step the factors of all pairs of a group, which have gradients."""

    @abstractmethod
    def fresh_state(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """Return what is remembered of a factor before its first step, without the number of its steps."""

    def count_steps(self, parameter: nn.Parameter, steps: Tensor) -> None:
        """Set the number of steps that a factor has had."""
        self.state[parameter]["step"] = int(steps)

    def begun(self, factor: nn.Parameter) -> dict[str, Any]:
        """Return what is remembered of a factor, which from now on is something."""
        state: dict[str, Any] = self.state[factor]
        if not state:
            state.update(self.fresh_state(factor), step=0)
        return state
