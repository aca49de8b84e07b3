"""Define a recipe, everything that makes a run, as frozen, validated sections.

Unknown keys are errors and numbers must be numbers: a misspelt or misread setting would otherwise train something else.
How files, `extends` and overrides become a Recipe is in `files.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reflora_cli.methods.choice import Named, refusal
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Dtype, EvalProtocol, Optimizer, Quantization
from reflora_cli.recipe.schedules import Schedule
from reflora_cli.tasks.wording import Wording

STEPS = re.compile(r"([0-9]{1,15}) steps?")
SHARE = re.compile(r"(0*[1-9][0-9]?|0*[0-9]{1,2}\.[0-9]{1,6})%")
LABEL_KEYS = ("text", "label", "labels", "separator", "metric", "class_weights", "wording")
"""The keys of a task section that belong to a task with labels, numbers or texts of the user's own."""
CHAT_KEYS = ("template", "train_on")
"""Those that belong to conversations."""
OWN_KEYS = (*LABEL_KEYS, "validation", *CHAT_KEYS)
"""Those that belong to a task with a kind."""
IDLE_KEYS = {
    "classification": ("separator", "wording"),
    "regression": ("labels", "separator", "class_weights", "wording"),
    "multilabel": ("wording",),
    "generation": ("labels", "separator", "class_weights", "validation_rows"),
    "chat": LABEL_KEYS,
}
"""The keys that would do nothing for a task of a kind; those of conversations too, for all kinds but chat."""


class Section(BaseModel):
    """The settings that all sections share."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelSection(Section):
    """The base model."""

    name: str = Field(description="hub id (or hub:ID), local directory, builtin:NAME, or pkg:PACKAGE/PATH")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    dtype: Annotated[Dtype, Named] = Field(Dtype.AUTO, description="of the frozen base and the forward pass")
    quantization: Annotated[Quantization, Named] = Field(
        Quantization.NONE, description="of the base's linear layers, but not of its output head"
    )
    double_quant: bool = Field(True, description="nf4 and fp4: the scales of blocks are quantized too")
    sharded: bool = Field(
        False, description="several processes: each keeps a part of the base's weights, which must not be quantized"
    )
    classifier_dropout: float | None = Field(None, ge=0, lt=1, description="before the head; null: the base's own")

    @model_validator(mode="after")
    def _quantized_weights_stay_whole(self) -> ModelSection:
        if self.sharded and self.quantization is not Quantization.NONE:
            raise refusal(
                "sharded", "quantized weights are not sharded", "use one of model.sharded, model.quantization"
            )
        return self


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
        None, ge=1, description="language models: training rows held out and scored by their loss, instead of the task"
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


class TrainSection(Section):
    """How long and how fast."""

    epochs: float | None = Field(None, gt=0, le=1e9, description="passes over the training rows; or give steps")
    steps: int | None = Field(None, ge=1, description="optimizer steps; or give epochs")
    batch_size: int = Field(32, ge=1, description="rows per optimizer step, over all processes and micro-batches")
    micro_batch_size: int = Field(32, ge=1, description="rows per forward pass on one device, at most")
    learning_rate: float = Field(1e-3, gt=0, le=1e30, description="the peak, after the warm-up")
    head_learning_rate: float | None = Field(
        None, gt=0, le=1e30, description="of modules trained whole; null: learning_rate"
    )
    optimizer: Annotated[Optimizer, Named] = Field(
        Optimizer.ADAMW, description="AdamW and the size of its moments, or sgd, whose rates are many times larger"
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="of sgd")
    schedule: Annotated[Schedule, Named] = Field(Schedule.LINEAR, description="of the learning rate after its warm-up")
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises from zero")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="language models: the share of every target that all tokens have alike"
    )
    weight_decay: float = Field(0.0, ge=0, le=1e6, description="decoupled; never of biases, norms or DoRA's magnitudes")
    max_grad_norm: float = Field(1.0, ge=0, description="clips the norm of all gradients; 0: no clipping")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    group_by_length: bool = Field(
        False, description="steps of rows alike in length: less padding, but where length tells of content, worse steps"
    )
    packing: bool = Field(
        False, description="language models: short rows of a batch share a sequence, unseen by each other"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of adapter and head initialization, row order and dropout")
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics")
    checkpoint_every: int = Field(500, ge=0, description="steps; 0: at the end of every epoch")
    keep_checkpoints: int = Field(2, ge=1, description="the newest ones; older ones are deleted")

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> TrainSection:
        remedy = "give one of train.epochs and train.steps"
        if self.epochs is None and self.steps is None:
            raise refusal("epochs", "the recipe does not say how long to train", remedy)
        if self.epochs is not None and self.steps is not None:
            raise refusal("steps", "the recipe says twice how long to train", remedy)
        return self

    @model_validator(mode="after")
    def _momentum_of_gradient_descent(self) -> TrainSection:
        if self.momentum and self.optimizer is not Optimizer.SGD:
            reason = f"momentum is sgd's, and {self.optimizer} has its own"
            raise refusal("momentum", reason, "set train.momentum=0, or train.optimizer=sgd")
        return self


class EvalSection(Section):
    """When to score and which adapter to keep."""

    every: Annotated[int, Field(ge=1)] | Literal["epoch", "never"] = Field(
        "epoch", description="epoch, never, or a number of steps, also written `500 steps`"
    )
    at_start: bool = Field(False, description="also score before the first step")
    batch_size: int = Field(64, ge=1, description="rows per forward pass")
    protocol: Annotated[EvalProtocol, Named] = Field(
        EvalProtocol.LLM_ADAPTERS,
        description="language models: llm-adapters generates and parses, choices compares log-likelihoods",
    )
    num_beams: int = Field(1, ge=1, description="of generated answers: 1 is greedy, published scores have 4")
    max_new_tokens: int = Field(32, ge=1, description="of a generated answer at most")
    length_penalty: float = Field(
        1.0, ge=-10, le=10, description="beams are compared by log-likelihood over length to this power"
    )
    no_repeat_ngram: int = Field(0, ge=0, description="no answer has so many tokens in a row twice; 0: it may")
    samples: int = Field(
        0, ge=0, le=100, description="language models: answers to the first N scored rows, shown with every evaluation"
    )
    select: Literal["best", "last"] = Field("best", description="which adapter is kept, by the task's main score")

    @field_validator("every", mode="before")
    @classmethod
    def _number_of_steps(cls, value: Any) -> Any:
        """Turn `500 steps` into 500."""
        counted = STEPS.fullmatch(value) if isinstance(value, str) else None
        return int(counted[1]) if counted else value

    @model_validator(mode="after")
    def _length_penalty_of_beams(self) -> EvalSection:
        if self.length_penalty != 1 and self.num_beams == 1:
            remedy = "set eval.num_beams to more than 1, or eval.length_penalty=1"
            raise refusal("length_penalty", "a greedy search compares no beams by their length", remedy)
        return self

    @model_validator(mode="after")
    def _something_to_select_by(self) -> EvalSection:
        if self.every == "never" and self.select == "best":
            raise refusal("every", "without evaluations there is no best adapter", "set eval.select=last")
        return self


class Recipe(Section):
    """A whole recipe."""

    model: ModelSection = Field(description="the base model")
    method: Method = Field(Method(), description="how it is adapted")
    task: TaskSection = Field(description="what it learns, and from which rows")
    train: TrainSection = Field(description="how long and how fast")
    eval: EvalSection = Field(EvalSection(), description="when it is scored, and which adapter is kept")

    @model_validator(mode="after")
    def _moments_that_can_be_transported(self) -> Recipe:
        update, optimizer = self.method.update, self.train.optimizer
        if update.transports_moments and optimizer.has_small_moments:
            reason = f"{update} carries AdamW's moments over to the rebalanced factors, and {optimizer} "
            remedy = "use adamw or sgd, or another update rule"
            raise refusal("train.optimizer", reason + "keeps them in 8 bits", remedy)
        return self

    @model_validator(mode="after")
    def _trained_weights_are_whole(self) -> Recipe:
        layer, model = self.method.layer, self.model
        if not layer.trains_weights:
            return self
        if model.quantization is not Quantization.NONE:
            reason = f"layer {layer} trains the base's weights, and weights in {model.quantization} cannot be trained"
            raise refusal("model.quantization", reason, "set model.quantization=none, or another method.layer")
        if model.sharded:
            reason = f"layer {layer} trains the base's weights, which every process must hold whole"
            raise refusal("model.sharded", reason, "set model.sharded=false, or another method.layer")
        return self

    @model_validator(mode="after")
    def _rows_have_room_before_them(self) -> Recipe:
        layer, train = self.method.layer, self.train
        if not layer.is_virtual:
            return self
        if train.packing:
            reason = f"layer {layer} puts virtual tokens before rows, and packed rows have rows before them"
            raise refusal("train.packing", reason, "set train.packing=false, or another method.layer")
        if self.model.sharded:
            reason = f"layer {layer} is trained inside of the base, which every process must hold whole"
            raise refusal("model.sharded", reason, "set model.sharded=false, or another method.layer")
        if layer.keeps_cache and train.gradient_checkpointing:
            reason = f"layer {layer} lies in the model's cache of keys, which is empty where activations are recomputed"
            raise refusal("train.gradient_checkpointing", reason, "set it to false, or use method.name=prompt")
        return self

    @model_validator(mode="after")
    def _one_kind_of_rates(self) -> Recipe:
        update, optimizer = self.method.update, self.train.optimizer
        if update.steps_like_adamw and optimizer is Optimizer.SGD:
            reason = f"{update} steps A and B at rates like AdamW's, and {optimizer} would step all else at the same"
            raise refusal("train.optimizer", reason, "set train.optimizer=adamw, or another method.update")
        return self

    @model_validator(mode="after")
    def _quantization_to_correct(self) -> Recipe:
        method = self.method
        is_made = method.start.corrects_quantization and method.after is None
        if is_made and self.model.quantization is Quantization.NONE:
            reason = f"start {method.start} corrects the error of a quantized base, and this one is not quantized"
            remedy = "set model.quantization to nf4, fp4 or int8, or choose another method.start"
            raise refusal("model.quantization", reason, remedy, also="method.start")
        return self
