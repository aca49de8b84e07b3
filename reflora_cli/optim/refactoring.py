"""What rules share that give the factors of a pair other values with the same product, after the optimizer's step.

A rule says how; after which steps is decided here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from reflora_cli.factors.pair import FactorPair
from reflora_cli.optim.rule import UpdateRule, check_shapes


class RefactoringRule(UpdateRule):
    """Refactors after steps warmup, warmup + interval, ..., so that step warmup + 1 is the first that is affected.

    warmup: plain steps.  interval: steps between two refactorings; at least 1.
    """

    def __init__(self, pairs: Sequence[FactorPair], warmup: int, interval: int) -> None:
        self._pairs = tuple(pairs)
        self._warmup, self._interval = warmup, interval
        self._steps = 0

    @abstractmethod
    def refactor(self, state: Mapping[Tensor, Any]) -> None:
        """Change the factors of all pairs in place. state: what the optimizer remembers, by parameter."""

    def before_step(self) -> None:
        pass

    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        self._steps += 1
        if self._is_due():
            self.refactor(state)

    def tensors(self) -> dict[str, Tensor]:
        """Return `steps`."""
        return {"steps": torch.tensor(self._steps)}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        check_shapes({"steps": ()}, tensors)
        self._steps = int(tensors["steps"])

    def _is_due(self) -> bool:
        since_warmup = self._steps - self._warmup
        return since_warmup >= 0 and since_warmup % self._interval == 0
