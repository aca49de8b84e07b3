"""Define a kind of task: all that the rest of the program must know to train and score its model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from reflora_cli.methods.settings import EvalProtocol
from reflora_cli.model.auto import AutoName
from reflora_cli.model.base import Base
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import Source
from reflora_cli.objectives.asking import Asking
from reflora_cli.objectives.objective import Objective, Split
from reflora_cli.objectives.rows import Examples, Rows
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.tasks.prompts import Template


class Kind(ABC):
    """A task with everything that its kind decides.

    auto_class: the class by which transformers loads its model. peft_type: PEFT's name for the kind. pipeline_tag: the
    hub's name for it. protocols: the ways in which its model's answers can be found; none where the model's outputs are
    labels or numbers. shares_sequences: whether packed rows share sequences; otherwise padded rows are computed without
    their padding.
    """

    auto_class: ClassVar[AutoName]
    peft_type: ClassVar[Literal["SEQ_CLS", "CAUSAL_LM"]]
    pipeline_tag: ClassVar[str]
    protocols: ClassVar[tuple[EvalProtocol, ...]] = ()
    shares_sequences: ClassVar[bool] = False

    @property
    def base_arguments(self) -> Mapping[str, object]:
        """The arguments, beside a location, with which the class loads a base that has no head for the task yet."""
        return {}

    @abstractmethod
    def load_base(self, section: ModelSection, revision: str | None, dtype: torch.dtype, seed: int) -> Base:
        """Load the base model, on the CPU, with the head that the task needs. Raises InputError.

        seed: that of parameters which the checkpoint lacks.
        """

    @abstractmethod
    def configure(self, section: ModelSection, source: Source) -> Any:
        """Return the config from which the task's model is made, without weights. Raises InputError."""

    @abstractmethod
    def head(self, model: Any) -> tuple[str, ...]:
        """Return the modules of a model, made from that config, that are the task's own head."""

    @abstractmethod
    def loss_module(self, recipe: Recipe, model: nn.Module) -> nn.Module:
        """Return the module that training calls for the summed loss of a batch."""

    @abstractmethod
    def made_up_answers(self, rows: int, learned: int) -> dict[str, Tensor]:
        """Return what the loss module takes beside a batch's tokens, all of it zero. learned: the number of places of
        the batch that are learned from.
        """

    @abstractmethod
    def logits_bytes(self, model: Any, learned: int, device: str, memory: int) -> int:
        """Return how many bytes logits and their loss take at a time on a device of this type.

        learned: as above. memory: the bytes of the device.
        """

    @abstractmethod
    def load_examples(self, recipe: Recipe) -> Examples:
        """Return the rows that a training run needs, as read. Raises InputError."""

    @abstractmethod
    def encode(self, recipe: Recipe, base: Base, examples: Examples) -> Rows:
        """Return the rows that a training run needs, encoded. Raises InputError."""

    @abstractmethod
    def make_objective(self, recipe: Recipe, base: Base, compute: Compute) -> Objective[Any]:
        """Return what is minimized and how it is scored. The base must be on its device. Raises InputError."""

    @abstractmethod
    def probe_rows(self, recipe: Recipe, base: Base, kept: Path | None) -> list[Any]:
        """Return some encoded rows on which two forms of a model can be compared. Raises InputError.

        kept: the file in which a run keeps such rows; without it they are read from the recipe's data.
        """

    @abstractmethod
    def splits(self, recipe: Recipe, base: Base, split: str | None, limit: int | None) -> Iterator[Split]:
        """Yield what an evaluation scores, each with its own tally: at most `limit` rows of the split, or of the task's
        own splits for None. Raises InputError.
        """

    @abstractmethod
    def asking(self, wording: Template | None) -> Asking:
        """Return how the model is asked about new rows. wording: the text around an instruction, instead of the task's
        own. Raises InputError for a task that has no such text.
        """

    @abstractmethod
    def asking_code(self, labels: str) -> list[str]:
        """Return the Python by which a card asks `model` with `tokenizer`. labels: the line that makes a list `labels`
        of what outputs mean.
        """

    @abstractmethod
    def refuse_unscorable(self, recipe: Recipe, split: str | None) -> None:
        """Raises InputError unless the first row of a split, or of each of the task's own splits for None, can be read
        and scored.
        """

    def scores_held_out(self, recipe: Recipe, split: str | None = None) -> bool:
        """Whether an evaluation of the split, or of none in particular, scores training rows that the run held out."""
        return False
