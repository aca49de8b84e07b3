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
        "hub", description="hub, hub:OWNER/NAME[/CONFIG], or a directory or file of jsonl, json, csv, tsv, parquet"
    )
    kind: Literal["classification", "regression", "multilabel", "generation", "chat"] | None = Field(
        None,
        description="of a task of your own: labels, numbers or texts, which text and label describe, or conversations; "
        "null: the task is known by its name",
    )
    template: str | None = Field(
        None, description="chat: chatml, llama3, plain or a Jinja file; null: the tokenizer's own chat template"
    )
    train_on: Literal["answers", "all"] | None = Field(
        None, description="chat: learn what the assistant says, or everything; null: answers"
    )
    text: str | list[str] | None = Field(None, description="kind: the column of the text, or two for a pair of texts")
    wording: str | None = Field(
        None, description="generation: the prompt with names of columns in braces; null: the text and ` ||`"
    )
    label: str | list[str] | None = Field(
        None,
        description="kind: the column of the label; multilabel: or a list of columns that hold 0 or 1; generation: of "
        "the right text, or of a list of right texts",
    )
    labels: list[str] | None = Field(
        None, description="kind: the labels in the order of the outputs; null: those of the training rows"
    )
    separator: str | None = Field(
        None, min_length=1, description="multilabel: what stands between the labels of a cell; null: , ; or |"
    )
    validation: Annotated[int, Field(ge=1)] | str | None = Field(
        None, description="kind: rows held out of the training rows, a number or a share such as 10%"
    )
    metric: str | None = Field(None, description="kind: the score by which the best adapter is kept")
    class_weights: Literal["balanced"] | list[Annotated[float, Field(ge=0, le=1e9)]] | None = Field(
        None, description="kind: the weight of each label in the loss; balanced: rare labels count more"
    )
    prompt: Literal["template", "alpaca"] | None = Field(
        None,
        description="instruct: put rows by the tokenizer's chat template, or by Alpaca's wording; "
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
            reason = f"a named task has its own columns and labels, and {given[0]} is for a task of your own"
            remedy = f"set task.kind to one of {', '.join(IDLE_KEYS)}, or leave {given[0]} out"
            if given[0] in CHAT_KEYS:
                reason, remedy = f"only conversations have a {given[0]}", "set task.kind=chat, or leave it out"
            raise refusal(given[0], reason, remedy)
        if self.kind is not None and not isinstance(self.name, str):
            raise refusal("name", "a task of your own has one name", "give one name, or none", also="kind")
        idle = IDLE_KEYS.get(self.kind or "", ())
        if found := [key for key in idle if getattr(self, key) is not None]:
            what = "conversations have" if self.kind == "chat" else f"a {self.kind} has"
            remedy = "set task.validation" if found[0] == "validation_rows" else "leave it out"
            raise refusal(found[0], f"{what} no {found[0]}", remedy, also="kind")
        return self

    @model_validator(mode="after")
    def _keys_of_conversations(self) -> TaskSection:
        if self.kind is None:
            return self
        if self.prompt is not None:
            raise refusal("prompt", f"a task of kind {self.kind} has no prompt to choose", "leave it out", also="kind")
        if self.kind != "chat":
            if given := [key for key in CHAT_KEYS if getattr(self, key) is not None]:
                raise refusal(given[0], f"only conversations have a {given[0]}", "leave it out", also="kind")
            return self
        if self.train_on_prompt:
            raise refusal("train_on_prompt", "conversations have task.train_on instead", "set task.train_on=all")
        if self.validation is not None and self.validation_rows is not None:
            reason = "task.validation and task.validation_rows both hold rows out"
            raise refusal("validation", reason, "give one of them", also="validation_rows")
        return self

    @property
    def learns_all(self) -> bool:
        """Whether a language model learns prompts too."""
        return self.train_on_prompt or self.train_on == "all"

    @model_validator(mode="after")
    def _columns_of_a_kind(self) -> TaskSection:
        if self.kind != "generation" and not 1 <= len(self.text_columns) <= 2:
            reason = f"a row has one text or a pair of texts, and text names {len(self.text_columns)} columns"
            raise refusal("text", reason, "name one or two columns, or join texts in the file")
        if isinstance(self.label, list) and (self.kind != "multilabel" or not self.label):
            reason = f"a {self.kind} has one column of labels" if self.label else "label names no column"
            raise refusal("label", reason, "name one column, or set task.kind=multilabel", also="kind")
        columns = (*self.text_columns, *self.label_columns)
        if repeated := [name for name in columns if columns.count(name) > 1]:
            raise refusal("label", f"column {repeated[0]!r} is named twice in text and label", "name each column once")
        return self

    @model_validator(mode="after")
    def _wording_of_a_generation(self) -> TaskSection:
        if self.kind != "generation":
            return self
        if self.wording is None:
            if len(self.text_columns) != 1:
                reason = f"text names {len(self.text_columns)} columns, and a prompt must say where each of them stands"
                remedy = 'name one column, or set task.wording, for example to "{first} {second} ||"'
                raise refusal("text", reason, remedy, also="wording")
            return self
        wording = Wording(self.wording)
        if wording.stray is not None:
            reason = f"wording has a brace that belongs to no column, at {wording.stray[:20]!r}"
            raise refusal("wording", reason, "close it, or write {{ and }} for braces in the prompt")
        if not wording.columns:
            raise refusal("wording", "wording names no column", "write the name of a column in braces: {text}")
        if self.text is not None and {*self.text_columns} != {*wording.columns}:
            found = ", ".join(wording.columns)
            reason = f"text names {', '.join(self.text_columns)}, and wording has {found} in braces"
            raise refusal("text", reason, "leave task.text out: wording says which columns are read", also="wording")
        return self

    @model_validator(mode="after")
    def _labels_of_a_kind(self) -> TaskSection:
        labels = self.labels or []
        if repeated := [name for name in labels if labels.count(name) > 1]:
            raise refusal("labels", f"label {repeated[0]!r} is named twice", "name each label once")
        if any(not name or name != name.strip() for name in labels):
            raise refusal("labels", "a label is empty, or has blanks around it", "give labels without them")
        if isinstance(self.class_weights, list) and len(self.class_weights) != len(labels):
            reason = f"class_weights has {len(self.class_weights)} weights for {len(labels)} labels"
            raise refusal("class_weights", reason, "give one for each of task.labels, or `balanced`")
        if isinstance(self.class_weights, list) and labels and not any(self.class_weights):
            reason = "all of class_weights are zero, so that no row is learned from"
            raise refusal("class_weights", reason, "give a weight above zero, or leave it out")
        if isinstance(self.validation, str) and not SHARE.fullmatch(self.validation):
            reason = f"validation is a number of rows or a share, not {self.validation!r}"
            raise refusal("validation", reason, "give for example 500, or 10%")
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
