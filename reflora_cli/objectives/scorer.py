"""Define what a protocol is: a way in which a model's answers are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample


class Scorer(ABC):
    """A protocol with a model: it turns a batch of examples into predictions."""

    @abstractmethod
    def predict(self, task: PromptTask, examples: Sequence[PromptExample]) -> list[Prediction]:
        """Return one prediction for each example, in their order; all of them go through the model in one batch."""

    @abstractmethod
    def batches(self, examples: Sequence[PromptExample], size: int) -> list[list[int]]:
        """Return the indices of all examples in batches for `predict`, the longest first. size: the number of the
        longest examples in a batch; of shorter ones there may be more.
        """

    def notes(self) -> list[str]:
        """Say what a user should know of how rows are read; nothing where that is as fast as it can be."""
        return []

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Return all that decides the outcomes beside model and data."""
