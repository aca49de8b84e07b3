"""Define the section `task` of a recipe: a task with a name, or one that the user describes by its kind."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from reflora_cli.methods.choice import refusal
from reflora_cli.recipe.section import Section
from reflora_cli.tasks.wording import Wording

SHARE = re.compile(r"(0*[1-9][0-9]?|0*[0-9]{1,2}\.[0-9]{1,6})%")
LABEL_KEYS = ("text", "label", "labels", "separator", "metric", "class_weights", "wording")
"""The keys of a task section that belong to a task with labels, numbers or texts of the user's own."""
CHAT_KEYS = ("template", "train_on")
"""Those that belong to conversations."""
OWN_KEYS = (*LABEL_KEYS, "validation", *CHAT_KEYS)
"""Those that belong to a task with a kind."""
IDLE_KEYS = {
    "classification": ("separator", "wording", "validation_rows"),
    "regression": ("labels", "separator", "class_weights", "wording", "validation_rows"),
    "multilabel": ("wording", "validation_rows"),
    "generation": ("labels", "separator", "class_weights", "validation_rows"),
    "chat": LABEL_KEYS,
}
"""The keys that would do nothing for a task of a kind; those of conversations too, for all kinds but chat."""


class TaskSection(Section):
    """What is learned, and from which rows."""

    name: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="family/task, for example glue/cola; or a list of tasks for a language model"
    )
    data: str = Field(
        "hub",
        description="the rows: hub, hub:OWNER/NAME[/CONFIG], or a directory or file of jsonl, json, csv, tsv, parquet",
    )
    kind: Literal["classification", "regression", "multilabel", "generation", "chat"] | None = Field(
        None,
        description="what a task of your own learns: labels, numbers, texts (see task.text, task.label) or "
        "conversations; null: task.name is a known task",
    )
    template: str | None = Field(
        None, description="kind=chat: chatml, llama3, plain or a Jinja file; null: the tokenizer's own chat template"
    )
    train_on: Literal["answers", "all"] | None = Field(
        None, description="kind=chat: learn what the assistant says, or everything; null: answers"
    )
    text: str | list[str] | None = Field(
        None, description="own tasks: the column of the text, or two columns for a pair of texts"
    )
    wording: str | None = Field(
        None, description="kind=generation: the prompt, with names of columns in braces; null: the text and ` ||`"
    )
    label: str | list[str] | None = Field(
        None,
        description="own tasks: the column of the label; kind=multilabel: or a list of columns that hold 0 or 1; "
        "kind=generation: the column of the right text, or of a list of right texts",
    )
    labels: list[str] | None = Field(
        None, description="own tasks: the labels in the order of the model's outputs; null: those of the training rows"
    )
    separator: str | None = Field(
        None, min_length=1, description="kind=multilabel: what separates the labels in a cell; null: , ; or |"
    )
    validation: Annotated[int, Field(ge=1)] | str | None = Field(
        None, description="own tasks: training rows to hold out for evaluation, a number or a share such as 10%"
    )
    metric: str | None = Field(None, description="own tasks: the score that selects the best adapter")
    class_weights: Literal["balanced"] | list[Annotated[float, Field(ge=0, le=1e9)]] | None = Field(
        None, description="own tasks: the weight of each label in the loss; balanced: rare labels count more"
    )
    prompt: Literal["template", "alpaca"] | None = Field(
        None,
        description="instruction tasks: write rows by the tokenizer's chat template, or by Alpaca's prompt; "
        "null: alpaca, for a tokenizer without a chat template",
    )
    max_length: int = Field(128, ge=1, description="tokens per row; longer rows are cut")
    train_on_prompt: bool = Field(False, description="language models: learn the prompt too, not only the answer")
    validation_rows: int | None = Field(
        None,
        ge=1,
        description="training rows held out and scored instead of the evaluation splits, by a language model's loss",
    )
    max_train_rows: int | None = Field(None, ge=1, description="the first N training rows, before shuffling")
    max_eval_rows: int | None = Field(None, ge=1, description="the first N rows of every evaluation split")

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_kind(cls, values: Any) -> Any:
        """Give a task of the user's own the name of its kind if it has none."""
        if isinstance(values, dict) and values.get("name") is None and isinstance(values.get("kind"), str):
            return {**values, "name": values["kind"]}
        return values

    @model_validator(mode="after")
    def _keys_of_a_kind(self) -> TaskSection:
        chosen = ("template",) if self.prompt == "template" else ()
        given = [key for key in OWN_KEYS if getattr(self, key) is not None and key not in chosen]
        if self.kind is None and given:
            reason = (
                f"a task known by its name has its own columns and labels: task.{given[0]} is for a task of your own"
            )
            remedy = f"set task.kind to one of {', '.join(IDLE_KEYS)}, or leave task.{given[0]} out"
            if given[0] in CHAT_KEYS:
                reason = f"task.{given[0]} is only for conversations (task.kind=chat)"
                remedy = f"set task.kind=chat, or leave task.{given[0]} out"
            raise refusal(given[0], reason, remedy)
        if self.kind is not None and not isinstance(self.name, str):
            reason = "task.name is a list, and a task of your own (task.kind) has one name"
            raise refusal("name", reason, "set task.name to one name, or leave it out", also="kind")
        idle = IDLE_KEYS.get(self.kind or "", ())
        if found := [key for key in idle if getattr(self, key) is not None]:
            is_renamed = found[0] == "validation_rows"
            remedy = "set task.validation instead" if is_renamed else f"leave task.{found[0]} out"
            raise refusal(found[0], f"task.{found[0]} is not for task.kind={self.kind}", remedy, also="kind")
        return self

    @model_validator(mode="after")
    def _keys_of_conversations(self) -> TaskSection:
        if self.kind is None:
            return self
        if self.prompt is not None:
            reason = f"task.prompt is not for task.kind={self.kind}, but for instruction tasks known by their name"
            raise refusal("prompt", reason, "leave task.prompt out", also="kind")
        if self.kind != "chat":
            if given := [key for key in CHAT_KEYS if getattr(self, key) is not None]:
                reason = f"task.{given[0]} is only for conversations (task.kind=chat)"
                raise refusal(given[0], reason, f"leave task.{given[0]} out", also="kind")
            return self
        if self.train_on_prompt:
            reason = "task.train_on_prompt is not for conversations (task.kind=chat), which have task.train_on"
            raise refusal("train_on_prompt", reason, "set task.train_on=all instead")
        if self.validation is not None and self.validation_rows is not None:
            reason = "task.validation and task.validation_rows both hold rows out"
            raise refusal("validation", reason, "set one of them", also="validation_rows")
        return self

    @property
    def learns_all(self) -> bool:
        """Whether a language model learns prompts too."""
        return self.train_on_prompt or self.train_on == "all"

    @model_validator(mode="after")
    def _columns_of_a_kind(self) -> TaskSection:
        if self.kind != "generation" and not 1 <= len(self.text_columns) <= 2:
            reason = f"a row has one text or a pair of texts, and task.text names {len(self.text_columns)} columns"
            raise refusal("text", reason, "name one or two columns, or join texts in the file")
        if isinstance(self.label, list) and (self.kind != "multilabel" or not self.label):
            reason = f"task.kind={self.kind} has one column of labels, and task.label is a list of columns"
            reason = reason if self.label else "task.label names no column"
            raise refusal("label", reason, "name one column, or set task.kind=multilabel", also="kind")
        columns = (*self.text_columns, *self.label_columns)
        if repeated := [name for name in columns if columns.count(name) > 1]:
            reason = f"column {repeated[0]!r} is named twice in task.text and task.label"
            raise refusal("label", reason, "name each column once")
        return self

    @model_validator(mode="after")
    def _wording_of_a_generation(self) -> TaskSection:
        if self.kind != "generation":
            return self
        if self.wording is None:
            if len(self.text_columns) != 1:
                reason = f"task.text names {len(self.text_columns)} columns, and no task.wording says where each stands"
                remedy = 'name one column, or set task.wording, for example to "{first} {second} ||"'
                raise refusal("text", reason, remedy, also="wording")
            return self
        wording = Wording(self.wording)
        if wording.stray is not None:
            reason = f"task.wording has a brace that belongs to no column, at {wording.stray[:20]!r}"
            raise refusal("wording", reason, "close it, or write {{ and }} for braces in the prompt")
        if not wording.columns:
            raise refusal("wording", "task.wording names no column", "write the name of a column in braces: {text}")
        if self.text is not None and {*self.text_columns} != {*wording.columns}:
            found = ", ".join(wording.columns)
            reason = f"task.text names {', '.join(self.text_columns)}, and task.wording has {found} in braces"
            remedy = "leave task.text out: task.wording says which columns are read"
            raise refusal("text", reason, remedy, also="wording")
        return self

    @model_validator(mode="after")
    def _labels_of_a_kind(self) -> TaskSection:
        labels = self.labels or []
        if repeated := [name for name in labels if labels.count(name) > 1]:
            raise refusal("labels", f"task.labels names {repeated[0]!r} twice", "name each label once")
        if any(not name or name != name.strip() for name in labels):
            reason = "a label in task.labels is empty, or begins or ends with a space"
            raise refusal("labels", reason, "remove empty labels, and the spaces around labels")
        if isinstance(self.class_weights, list) and len(self.class_weights) != len(labels):
            reason = f"task.class_weights has {len(self.class_weights)} weights for {len(labels)} labels"
            raise refusal("class_weights", reason, "give one weight for each of task.labels, or `balanced`")
        if isinstance(self.class_weights, list) and labels and not any(self.class_weights):
            reason = "all of task.class_weights are zero, so no row would be learned from"
            raise refusal("class_weights", reason, "give a weight above zero, or leave task.class_weights out")
        if isinstance(self.validation, str) and not SHARE.fullmatch(self.validation):
            reason = f"task.validation is a number of rows or a share, not {self.validation!r}"
            raise refusal("validation", reason, "set for example task.validation=500, or task.validation=10%")
        return self

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns of the texts of a task of the user's own."""
        if self.text is None and self.wording is not None:
            return Wording(self.wording).columns
        return tuple(self.text) if isinstance(self.text, list) else (self.text or "text",)

    @property
    def finds_labels(self) -> bool:
        """Whether the labels of the task are those of its training rows."""
        return self.kind in ("classification", "multilabel")

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of the labels of a task of the user's own."""
        return tuple(self.label) if isinstance(self.label, list) else (self.label or "label",)
