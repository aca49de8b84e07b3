"""What every optimizer with an update rule around its step shares: a state that carries the rule's, and closures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from reflora_cli.optim.rule import UpdateRule


class Ruled(torch.optim.Optimizer):
    """An optimizer whose `state_dict` holds, beside `state` and `param_groups`, what its rule remembers.

    It stands under the key `rule`, as tensors by name (the count of steps; matrices S that are still in use), so that
    `torch.save` and `torch.load(weights_only=True)` carry it. A run that is continued from it neither repeats the
    rule's warm-up nor loses an S between two renewals.
    """

    rule: UpdateRule

    def state_dict(self) -> dict[str, Any]:
        """`state` and `param_groups` as torch defines them, and `rule`."""
        return {**super().state_dict(), "rule": self.rule.tensors()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave. Raises ValueError, and changes nothing, for the state of another optimizer:
        one with other groups, or one without a rule where this one has to remember something."""
        before = self.rule.tensors()
        self.rule.load_tensors(state_dict.get("rule", {}))
        try:
            super().load_state_dict(state_dict)
        except Exception:
            self.rule.load_tensors(before)
            raise


def evaluated(closure: Callable[[], float] | None) -> float | None:
    """The loss of a closure that computes it and its gradients; None without a closure.

    It is called before the rule acts, so that the rule sees these gradients.
    """
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
