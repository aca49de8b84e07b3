"""Define a recipe, everything that makes a run, as frozen, validated sections.

Unknown keys are errors and numbers must be numbers: a misspelt or misread setting would otherwise train something else.
How files, `extends` and overrides become a Recipe is in `files.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from reflora_cli.methods.choice import Named, refusal
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import (
    Attention,
    Dtype,
    EvalProtocol,
    GenerationCache,
    Optimizer,
    Quantization,
    Streaming,
    TrackerName,
)
from reflora_cli.recipe.schedules import Schedule
from reflora_cli.recipe.section import Section
from reflora_cli.recipe.task_section import TaskSection

STEPS = re.compile(r"([0-9]{1,15}) steps?")


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
    streaming: Annotated[Streaming, Named] = Field(
        Streaming.NONE,
        description="where frozen weights of blocks are until they compute: host memory, or disk, the base's files",
    )
    attention: Annotated[Attention, Named] = Field(
        Attention.AUTO, description="the function that computes attention; auto: what transformers takes for the model"
    )
    classifier_dropout: float | None = Field(None, ge=0, lt=1, description="before the head; null: the base's own")

    @model_validator(mode="after")
    def _quantized_weights_stay_whole(self) -> ModelSection:
        if self.sharded and self.quantization is not Quantization.NONE:
            raise refusal(
                "sharded", "quantized weights are not sharded", "use one of model.sharded, model.quantization"
            )
        return self

    @model_validator(mode="after")
    def _streamed_weights_stay_where_they_are(self) -> ModelSection:
        if self.streaming is not Streaming.NONE and self.sharded:
            raise refusal("streaming", "streamed weights are not sharded", "use one of model.streaming, model.sharded")
        if self.streaming is Streaming.DISK and self.quantization is not Quantization.NONE:
            reason = (
                f"the base's files do not hold its weights in {self.quantization}, which are made when it is loaded"
            )
            raise refusal("streaming", reason, "set model.streaming=host")
        return self


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
    offload_activations: bool = Field(
        False,
        description="keep activations in host memory until the backward pass, to save a GPU's; of no use on a CPU",
    )
    compile: bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        False, description="the model's blocks by torch.compile: true, or one of its modes; takes a while before step 1"
    )
    group_by_length: bool = Field(
        False, description="steps of rows alike in length: less padding, but where length tells of content, worse steps"
    )
    packing: bool = Field(
        False,
        description="rows of a batch without padding, unseen by each other; language models: several in one sequence",
    )
    trim_last_block: bool = Field(
        False, description="classifiers such as BERT: the last block leaves out places that the head does not read"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of adapter and head initialization, row order and dropout")
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics")
    health_every: Annotated[int, Field(ge=0)] | Literal["log_every"] = Field(
        "log_every", description="steps between two lines of the adapters' health; log_every: as often; 0: never"
    )
    trackers: Annotated[tuple[Annotated[TrackerName, Named], ...], Field(strict=False)] = Field(
        (), description="programs that follow the run: tensorboard, wandb, trackio, or a list of them"
    )
    checkpoint_every: int = Field(500, ge=0, description="steps; 0: at the end of every epoch")
    keep_checkpoints: int = Field(2, ge=1, description="the newest ones; older ones are deleted")

    @field_validator("trackers", mode="before")
    @classmethod
    def _one_tracker(cls, value: Any) -> Any:
        """Turn one name into a list."""
        return [value] if isinstance(value, str) else value

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

    @model_validator(mode="after")
    def _first_places_to_keep(self) -> TrainSection:
        if self.trim_last_block and self.packing:
            reason = "the last block keeps the first place of each row, and packed rows begin anywhere"
            raise refusal("trim_last_block", reason, "set one of train.trim_last_block and train.packing to false")
        return self


class EvalSection(Section):
    """When to score and which adapter to keep."""

    every: Annotated[int, Field(ge=1)] | Literal["epoch", "never"] = Field(
        "epoch", description="epoch, never, or a number of steps, also written `500 steps`"
    )
    at_start: bool = Field(False, description="also score before the first step")
    batch_size: int = Field(64, ge=1, description="rows per forward pass; more of short ones where answers are found")
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
    cache: Annotated[GenerationCache, Named] = Field(
        GenerationCache.DYNAMIC,
        description="keys and values while answers are written; static: of one size, compiled on a GPU",
    )
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
        if update.transports_moments and (optimizer.has_small_moments or optimizer.is_paged):
            reason = f"{update} carries AdamW's moments over to the rebalanced factors, and {optimizer} keeps them "
            where = "in 8 bits" if optimizer.has_small_moments else "where a GPU may move them"
            raise refusal("train.optimizer", reason + where, "use adamw or sgd, or another update rule")
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
    def _compiled_blocks_hold_their_weights(self) -> Recipe:
        if self.train.compile and self.model.sharded:
            reason = "blocks whose weights are gathered from other processes are not compiled"
            raise refusal("train.compile", reason, "use one of train.compile and model.sharded")
        if self.train.compile and self.model.streaming is not Streaming.NONE:
            reason = "blocks whose weights come to the device when they are used are not compiled"
            raise refusal("train.compile", reason, "use one of train.compile and model.streaming")
        if self.eval.cache == "static" and self.model.streaming is not Streaming.NONE:
            reason = "keys and values of one size are for compiled passes, and streamed blocks are not compiled"
            raise refusal("eval.cache", reason, "use eval.cache=dynamic, or model.streaming=none")
        return self

    @model_validator(mode="after")
    def _offloaded_tensors_are_activations(self) -> Recipe:
        if self.train.offload_activations and self.model.sharded:
            reason = "weights that are gathered from other processes would be moved to the host like activations"
            raise refusal("train.offload_activations", reason, "use one of train.offload_activations and model.sharded")
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
    def _streamed_weights_are_frozen(self) -> Recipe:
        method, streaming = self.method, self.model.streaming
        if streaming is Streaming.NONE:
            return self
        if method.layer.in_place:
            reason = f"layer {method.layer} trains parameters of the base itself, and streamed ones are frozen"
            raise refusal("model.streaming", reason, "set model.streaming=none, or another method.layer")
        if method.after is None and method.start.corrects_quantization:
            reason = f"start {method.start} quantizes weights again and again, which streamed ones are not"
            raise refusal("model.streaming", reason, "set model.streaming=none, or another method.start")
        if method.after is None and method.start.moves_base and streaming is Streaming.DISK:
            reason = f"start {method.start} changes the base's weights, and its files are not changed"
            raise refusal("model.streaming", reason, "set model.streaming=host, or another method.start")
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
