"""The model writes a text after each prompt, which is compared with all reference texts of the row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from reflora_cli.objectives.generation import Generation
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample


@final
class References(Scorer):
    """A search for free texts. What is compared is all that was written."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation

    def settings(self) -> dict[str, object]:
        return {**self.generation.settings(), "protocol": "references"}

    def notes(self) -> list[str]:
        return self.generation.notes()

    def batches(self, examples: Sequence[PromptExample], size: int) -> list[list[int]]:
        return self.generation.batches(examples, size)

    def predict(self, task: PromptTask, examples: Sequence[PromptExample]) -> list[Prediction]:
        return [
            Prediction(
                example.label,
                written.text.strip(),
                output=written.text,
                cut=written.cut,
                references=example.references,
            )
            for example, written in zip(examples, self.generation.texts(examples), strict=True)
        ]
