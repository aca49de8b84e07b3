"""Load base models: the sole user of transformers' Auto classes.

Safetensors only, remote code never. What the checkpoint lacks (the task's head, DeBERTa's pooler) is drawn from the
run's seed and remembered as fresh, because such modules must travel with the adapter.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reflora_cli.errors import InputError, Problem
from reflora_cli.methods import Method
from reflora_cli.sources import Source, find_source
from reflora_cli.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DROPOUT_FIELDS = ("classifier_dropout", "cls_dropout", "seq_classif_dropout", "classifier_dropout_prob")
"""What architectures call the dropout before their classification head."""
UNLISTED_DROPOUT = {"deberta": "cls_dropout", "deberta-v2": "cls_dropout"}
"""Architectures that read a field which their configuration does not list."""


@dataclass(frozen=True)
class Base:
    """A base model with the task's head, its tokenizer, and the modules to save whole with an adapter.

    fresh: outermost modules with a parameter that the checkpoint lacks. head: modules outside the pretrained body.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: Source
    commit: str | None
    fresh: tuple[str, ...]
    head: tuple[str, ...]

    def place(self, device: torch.device) -> None:
        """Move the model to a device, in place."""
        nn.Module.to(self.model, device)

    def trainable(self, method: Method) -> tuple[str, ...]:
        """The modules that `method` trains whole. Raises InputError for a name that is no module."""
        if method.trainable_modules == "auto":
            return outermost({*self.fresh, *self.head})
        modules = dict(self.model.named_modules())
        unknown = [name for name in method.trainable_modules if name not in modules]
        if unknown:
            expected = f"a module's full path, for example {', '.join(self.head)}"
            where = "method.trainable_modules"
            raise InputError(*(Problem("no such module in the model", where, repr(name), expected) for name in unknown))
        return outermost(set(method.trainable_modules))

    def saved(self, method: Method) -> tuple[str, ...]:
        """The modules that travel with the adapter: the trained ones, and the fresh ones even when frozen."""
        return outermost({*self.trainable(method), *self.fresh})


def pick_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The base's dtype; `auto` is bfloat16 on a GPU that computes in it, else float32."""
    if name != "auto":
        return DTYPES[name]
    return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32


@contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Run the forward pass as training does: autocast to a half-precision base's dtype, plain float32 otherwise."""
    with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
        yield


def load_classifier(
    name: str, revision: str | None, task: Task, *, dtype: torch.dtype, dropout: float | None, seed: int
) -> Base:
    """The base model `name` with a sequence-level head for `task`, on the CPU, every parameter frozen or not as loaded.

    Fresh parameters are drawn under `seed`. Raises InputError for a model that cannot be found, read or used.
    """
    from transformers import AutoModelForSequenceClassification

    source = find_source(name, revision)
    with quiet_transformers(), loading_errors(source):
        tokenizer = load_tokenizer(source)
        config = head_config(source, task, tokenizer, dropout)
        torch.manual_seed(seed)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            source.location, config=config, revision=source.revision, dtype=dtype, **SAFE, output_loading_info=True
        )
    head = head_modules(model)
    missing = {*report["missing_keys"], *resized(source, report, head)}
    fresh = outermost({parameter.rpartition(".")[0] for parameter in missing})
    commit = getattr(config, "_commit_hash", None)  # set by transformers for hub models only
    return Base(model, tokenizer, source, commit, fresh, head)


SAFE: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, "ignore_mismatched_sizes": True}
"""Never a pickle, never code from a checkpoint. Sizes that do not fit are sorted out by `resized`."""


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """The source's tokenizer; one without a pad token pads with its end token."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source.location, revision=source.revision, trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            what = "the tokenizer has neither a pad nor an end-of-sequence token"
            raise InputError(
                Problem(what, where="model.name", found=source.name, expected="one of the two to pad with")
            )
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def head_config(
    source: Source, task: Task, tokenizer: PreTrainedTokenizerBase, dropout: float | None
) -> PretrainedConfig:
    """The base's config with the task's labels, the pad token and the head's dropout set."""
    from transformers import AutoConfig

    labels = dict(enumerate(task.label_names)) or {0: "score"}
    config: PretrainedConfig = AutoConfig.from_pretrained(
        source.location,
        revision=source.revision,
        trust_remote_code=False,
        id2label=labels,
        label2id={name: index for index, name in labels.items()},
        problem_type="regression" if task.is_regression else "single_label_classification",
    )
    config.pad_token_id = tokenizer.pad_token_id
    if dropout is not None:
        listed = next((field for field in DROPOUT_FIELDS if hasattr(config, field)), None)
        field = listed or UNLISTED_DROPOUT.get(config.model_type)
        if field is None:
            what = f"a {config.model_type} model has no dropout before its head"
            raise InputError(Problem(what, "model.classifier_dropout", str(dropout), remedy="leave it out (null)"))
        setattr(config, field, dropout)
    return config


def check_length(base: Base, max_length: int) -> None:
    """Raises InputError when `task.max_length` exceeds the positions that the model or its tokenizer know."""
    config = base.model.config
    limits = [
        limit for limit in (getattr(config, "max_position_embeddings", None), base.tokenizer.model_max_length) if limit
    ]
    limit = min(limits)
    if max_length > limit:
        expected = f"at most {limit}, the positions of {base.source.name}"
        raise InputError(Problem("max_length is beyond the model", "task.max_length", str(max_length), expected))


def head_modules(model: PreTrainedModel) -> tuple[str, ...]:
    """The top-level modules with parameters beside the pretrained body: the task's head, and DeBERTa's pooler."""
    return tuple(
        name
        for name, child in model.named_children()
        if name != model.base_model_prefix and any(True for _ in child.parameters())
    )


def outermost(names: set[str]) -> tuple[str, ...]:
    """The names that lie inside no other of the names, sorted."""
    return tuple(sorted(n for n in names if not any(n.startswith(f"{other}.") for other in names)))


def resized(source: Source, report: dict[str, Any], head: Sequence[str]) -> set[str]:
    """Parameters of the head that the checkpoint has for another number of labels: they are drawn anew.

    Raises InputError for any other weight of another shape, which would be silently random.
    """
    names = {str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in report["mismatched_keys"]}
    body = sorted(name for name in names if not any(name.startswith(f"{module}.") for module in head))
    if body:
        what = "weights of the base do not fit its architecture"
        raise InputError(Problem(what, f"model.name: {source.name}", found=", ".join(body[:3])))
    return names


def parameter_count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, no load reports: what matters of them is checked and said by us."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def loading_errors(source: Source) -> Iterator[None]:
    """Say what a library's exception means for the user's model."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        where = f"model.name: {source.name} ({source.location})"
        raise InputError(Problem("the base model's weights are damaged", where, str(error))) from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        what = "the base model cannot be loaded"
        remedy = "" if source.is_local else "check the name and the network, or give a local directory"
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(Problem(what, f"model.name: {source.name}", found=first, remedy=remedy)) from error
