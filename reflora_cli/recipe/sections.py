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
    dtype: Annotated[Dtype, Named] = Field(Dtype.AUTO, description="dtype of the frozen base and of the forward pass")
    quantization: Annotated[Quantization, Named] = Field(
        Quantization.NONE, description="format of the base's linear layers; its output head is not quantized"
    )
    double_quant: bool = Field(True, description="nf4 and fp4: quantize the scales of the blocks too")
    sharded: bool = Field(
        False, description="several processes: each holds a part of the base's weights; not for a quantized base"
    )
    streaming: Annotated[Streaming, Named] = Field(
        Streaming.NONE,
        description="where frozen weights of blocks stay until they are used: host memory, or disk, the base's files",
    )
    attention: Annotated[Attention, Named] = Field(
        Attention.AUTO,
        description="the implementation of attention; auto: the one that transformers chooses for the model",
    )
    classifier_dropout: float | None = Field(
        None, ge=0, lt=1, description="dropout before the head; null: the base's own"
    )

    @model_validator(mode="after")
    def _quantized_weights_stay_whole(self) -> ModelSection:
        if self.sharded and self.quantization is not Quantization.NONE:
            raise refusal(
                "sharded",
                f"model.sharded=true cannot shard weights that are quantized (model.quantization={self.quantization})",
                "set model.sharded=false or model.quantization=none",
            )
        return self

    @model_validator(mode="after")
    def _streamed_weights_stay_where_they_are(self) -> ModelSection:
        if self.streaming is not Streaming.NONE and self.sharded:
            reason = f"model.sharded=true cannot shard weights that are streamed (model.streaming={self.streaming})"
            raise refusal("streaming", reason, "set model.streaming=none or model.sharded=false")
        if self.streaming is Streaming.DISK and self.quantization is not Quantization.NONE:
            reason = (
                "model.streaming=disk reads weights from the base's files, which do not hold them in "
                f"{self.quantization}: they are quantized when the base is loaded"
            )
            raise refusal("streaming", reason, "set model.streaming=host")
        return self


class TrainSection(Section):
    """How long and how fast."""

    epochs: float | None = Field(None, gt=0, le=1e9, description="passes over the training rows; or give steps")
    steps: int | None = Field(None, ge=1, description="optimizer steps; or give epochs")
    batch_size: int = Field(32, ge=1, description="rows per optimizer step, over all processes and micro-batches")
    micro_batch_size: int = Field(32, ge=1, description="rows per forward pass on one device, at most")
    learning_rate: float = Field(1e-3, gt=0, le=1e30, description="the peak learning rate, after the warm-up")
    head_learning_rate: float | None = Field(
        None, gt=0, le=1e30, description="learning rate of modules trained whole; null: the same as learning_rate"
    )
    optimizer: Annotated[Optimizer, Named] = Field(
        Optimizer.ADAMW,
        description="AdamW (8bit: small moments; paged: they may leave a full GPU), or sgd, for much larger rates",
    )
    momentum: float = Field(0.0, ge=0, lt=1, description="momentum of sgd")
    schedule: Annotated[Schedule, Named] = Field(
        Schedule.LINEAR, description="how the learning rate changes after the warm-up"
    )
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises from zero")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="language models: the share of every target that is spread evenly over all tokens"
    )
    weight_decay: float = Field(
        0.0, ge=0, le=1e6, description="decoupled weight decay; never of biases, norms or DoRA's magnitudes"
    )
    max_grad_norm: float = Field(1.0, ge=0, description="clip the norm of all gradients to this; 0: no clipping")
    gradient_checkpointing: bool = Field(False, description="recompute activations to save memory")
    offload_activations: bool = Field(
        False,
        description="keep activations in host memory until the backward pass, which saves GPU memory; no use on a CPU",
    )
    compile: bool | Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = Field(
        False,
        description="compile the model's blocks by torch.compile: true, or one of its modes; delays the first step",
    )
    group_by_length: bool = Field(
        False,
        description="steps of rows of similar length: less padding, but biased if length depends on content",
    )
    packing: bool = Field(
        False,
        description="rows without padding, unseen by each other; language models: several in one sequence",
    )
    trim_last_block: bool = Field(
        False, description="classifiers such as BERT: the last block computes only the positions that the head reads"
    )
    seed: int = Field(
        0, ge=0, lt=2**32, description="random seed of adapter and head initialization, row order and dropout"
    )
    log_every: int = Field(10, ge=1, description="steps between two lines of metrics")
    health_every: Annotated[int, Field(ge=0)] | Literal["log_every"] = Field(
        "log_every",
        description="steps between two records of the adapters' health; log_every: as train.log_every; 0: never",
    )
    trackers: Annotated[tuple[Annotated[TrackerName, Named], ...], Field(strict=False)] = Field(
        (), description="experiment trackers: tensorboard, wandb, trackio, or a list of them"
    )
    checkpoint_every: int = Field(
        500, ge=0, description="steps between two checkpoints; 0: one at the end of every epoch"
    )
    keep_checkpoints: int = Field(
        2, ge=1, description="number of checkpoints to keep, the newest ones; older ones are deleted"
    )

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
            raise refusal("steps", "train.epochs and train.steps both say how long to train", remedy)
        return self

    @model_validator(mode="after")
    def _momentum_of_gradient_descent(self) -> TrainSection:
        if self.momentum and self.optimizer is not Optimizer.SGD:
            reason = f"train.momentum is only for train.optimizer=sgd; {self.optimizer} has momentum of its own"
            raise refusal("momentum", reason, "set train.momentum=0, or train.optimizer=sgd")
        return self

    @model_validator(mode="after")
    def _first_places_to_keep(self) -> TrainSection:
        if self.trim_last_block and self.packing:
            reason = (
                "train.trim_last_block keeps the first position of each row in the last block, and with train.packing "
                "rows begin at any position"
            )
            raise refusal("trim_last_block", reason, "set one of train.trim_last_block and train.packing to false")
        return self


class EvalSection(Section):
    """When to score and which adapter to keep."""

    every: Annotated[int, Field(ge=1)] | Literal["epoch", "never"] = Field(
        "epoch", description="when to evaluate: epoch, never, or a number of steps, also written `500 steps`"
    )
    at_start: bool = Field(False, description="also score before the first step")
    batch_size: int = Field(
        64, ge=1, description="rows per forward pass; language models take more rows at once where rows are short"
    )
    protocol: Annotated[EvalProtocol, Named] = Field(
        EvalProtocol.LLM_ADAPTERS,
        description="language models: llm-adapters parses generated answers, choices compares log-likelihoods",
    )
    num_beams: int = Field(1, ge=1, description="beams of generated answers; 1: greedy search; published scores use 4")
    max_new_tokens: int = Field(32, ge=1, description="the most tokens of a generated answer")
    length_penalty: float = Field(
        1.0,
        ge=-10,
        le=10,
        description="beam search: the log-likelihood of a beam is divided by its length to this power",
    )
    no_repeat_ngram: int = Field(
        0, ge=0, description="generated answers repeat no sequence of this many tokens; 0: no limit"
    )
    cache: Annotated[GenerationCache, Named] = Field(
        GenerationCache.DYNAMIC,
        description="cache of keys and values in generation: dynamic grows; static has one size, compiled on a GPU",
    )
    samples: int = Field(
        0, ge=0, le=100, description="language models: show the answers to the first N scored rows at every evaluation"
    )
    select: Literal["best", "last"] = Field(
        "best", description="which adapter is kept: the best by the task's main score, or the last"
    )

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
            reason = "eval.length_penalty compares beams, and eval.num_beams=1 is greedy search, which has no others"
            raise refusal("length_penalty", reason, remedy)
        return self

    @model_validator(mode="after")
    def _something_to_select_by(self) -> EvalSection:
        if self.every == "never" and self.select == "best":
            reason = "eval.select=best needs evaluations, and eval.every=never makes none"
            raise refusal("every", reason, "set eval.select=last, or eval.every=epoch")
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
            where = "in 8 bits" if optimizer.has_small_moments else "where they may leave the GPU"
            reason = (
                f"method.update={update} rescales AdamW's moments together with A and B, and "
                f"train.optimizer={optimizer} keeps them {where}"
            )
            remedy = "set train.optimizer to adamw or sgd, or choose another method.update"
            raise refusal("train.optimizer", reason, remedy)
        return self

    @model_validator(mode="after")
    def _trained_weights_are_whole(self) -> Recipe:
        layer, model = self.method.layer, self.model
        if not layer.trains_weights:
            return self
        if model.quantization is not Quantization.NONE:
            reason = (
                f"method.layer={layer} trains the base's weights, and quantized weights "
                f"(model.quantization={model.quantization}) cannot be trained"
            )
            raise refusal("model.quantization", reason, "set model.quantization=none, or another method.layer")
        if model.sharded:
            reason = f"method.layer={layer} trains the base's weights, which every process must hold whole"
            raise refusal("model.sharded", reason, "set model.sharded=false, or another method.layer")
        return self

    @model_validator(mode="after")
    def _compiled_blocks_hold_their_weights(self) -> Recipe:
        if self.train.compile and self.model.sharded:
            reason = "train.compile cannot compile blocks with sharded weights (model.sharded=true)"
            raise refusal("train.compile", reason, "set train.compile=false or model.sharded=false")
        if self.train.compile and self.model.streaming is not Streaming.NONE:
            reason = (
                f"train.compile cannot compile blocks with streamed weights (model.streaming={self.model.streaming})"
            )
            raise refusal("train.compile", reason, "set train.compile=false or model.streaming=none")
        if self.eval.cache == "static" and self.model.streaming is not Streaming.NONE:
            reason = (
                "eval.cache=static is for compiled forward passes, and streamed blocks "
                f"(model.streaming={self.model.streaming}) are not compiled"
            )
            raise refusal("eval.cache", reason, "set eval.cache=dynamic, or model.streaming=none")
        return self

    @model_validator(mode="after")
    def _offloaded_tensors_are_activations(self) -> Recipe:
        if self.train.offload_activations and self.model.sharded:
            reason = (
                "train.offload_activations would also move the weights that model.sharded=true gathers from other "
                "processes to host memory"
            )
            remedy = "set train.offload_activations=false or model.sharded=false"
            raise refusal("train.offload_activations", reason, remedy)
        return self

    @model_validator(mode="after")
    def _rows_have_room_before_them(self) -> Recipe:
        layer, train = self.method.layer, self.train
        if not layer.is_virtual:
            return self
        if train.packing:
            reason = (
                f"method.layer={layer} puts virtual tokens before each row, and packed rows have other rows before them"
            )
            raise refusal("train.packing", reason, "set train.packing=false, or another method.layer")
        if self.model.sharded:
            reason = f"method.layer={layer} is trained inside of the base, which every process must hold whole"
            raise refusal("model.sharded", reason, "set model.sharded=false, or another method.layer")
        if layer.keeps_cache and train.gradient_checkpointing:
            reason = (
                f"method.layer={layer} is put into the model's cache of keys and values, which is empty when "
                "activations are recomputed"
            )
            remedy = "set train.gradient_checkpointing=false, or method.name=prompt"
            raise refusal("train.gradient_checkpointing", reason, remedy)
        return self

    @model_validator(mode="after")
    def _one_kind_of_rates(self) -> Recipe:
        update, optimizer = self.method.update, self.train.optimizer
        if update.steps_like_adamw and optimizer is Optimizer.SGD:
            reason = (
                f"method.update={update} needs learning rates like AdamW's for A and B, and "
                f"train.optimizer={optimizer} would use the same rates for all other parameters"
            )
            raise refusal("train.optimizer", reason, "set train.optimizer=adamw, or another method.update")
        return self

    @model_validator(mode="after")
    def _streamed_weights_are_frozen(self) -> Recipe:
        method, streaming = self.method, self.model.streaming
        if streaming is Streaming.NONE:
            return self
        if method.layer.in_place:
            reason = f"method.layer={method.layer} trains parameters of the base itself, and streamed ones are frozen"
            raise refusal("model.streaming", reason, "set model.streaming=none, or another method.layer")
        if method.after is None and method.start.corrects_quantization:
            reason = (
                f"method.start={method.start} quantizes weights repeatedly, which is not possible for streamed weights"
            )
            raise refusal("model.streaming", reason, "set model.streaming=none, or another method.start")
        if method.after is None and method.start.moves_base and streaming is Streaming.DISK:
            reason = (
                f"method.start={method.start} changes the base's weights, and model.streaming=disk always reads them "
                "from the base's files, which stay as they are"
            )
            raise refusal("model.streaming", reason, "set model.streaming=host, or another method.start")
        return self

    @model_validator(mode="after")
    def _quantization_to_correct(self) -> Recipe:
        method = self.method
        is_made = method.start.corrects_quantization and method.after is None
        if is_made and self.model.quantization is Quantization.NONE:
            reason = (
                f"method.start={method.start} corrects the error of a quantized base, and model.quantization is none"
            )
            remedy = "set model.quantization to nf4, fp4 or int8, or choose another method.start"
            raise refusal("model.quantization", reason, remedy, also="method.start")
        return self
