"""What an update rule is: what happens to the pairs of factors before and after the optimizer's step.

The rules are in files of their own. The order of a training step is fixed:
accumulate, reduce, unscale, clip, `before_step`, optimizer, `after_step`. A step that is skipped for overflow reaches
no rule.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class UpdateRule(ABC):
    """Acts around every optimizer step; whatever it remembers from one step to the next is in `tensors`."""

    @abstractmethod
    def before_step(self) -> None:
        """May rewrite the gradients of its pairs, in place."""

    @abstractmethod
    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        """May rewrite its factors and their moments in `state`, the optimizer's state by parameter, in place."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Everything that advances."""

    @abstractmethod
    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `tensors` gave. Raises ValueError, and changes nothing, unless names and shapes agree."""

    def penalty(self) -> Tensor | None:
        """Return what is added to the loss of every optimizer step, a scalar of the trained tensors; None for nothing.

        Its gradient is there before gradients are clipped.
        """
        return None

    def stepped_plainly(self) -> list[str]:
        """Return modules whose last step was the optimizer's alone although the rule was at work: it could do nothing
        there.

        It may wait for the device.
        """
        return []

    def logged(self) -> dict[str, float]:
        """Return numbers of the rule's course that belong in the log beside the loss, by name."""
        return {}


class StatelessRule(UpdateRule):
    """A rule that remembers nothing from one step to the next but what parameters say."""

    def tensors(self) -> dict[str, Tensor]:
        return {}

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        check_shapes({}, tensors)


class PlainRule(StatelessRule):
    """Leaves everything to the optimizer."""

    def before_step(self) -> None:
        pass

    def after_step(self, state: Mapping[Tensor, Any]) -> None:
        pass


def check_shapes(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor]) -> None:
    """Raises ValueError that lists every missing, unexpected and misshapen tensor."""
    missing = [f"missing {name}" for name in expected.keys() - found.keys()]
    unexpected = [f"unexpected {name}" for name in found.keys() - expected.keys()]
    misshapen = [
        f"{name} has shape {tuple(found[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    if problems := sorted(missing) + sorted(unexpected) + misshapen:
        raise ValueError("the saved optimizer state does not fit: " + "; ".join(problems))
