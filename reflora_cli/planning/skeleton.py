"""A run's base without its weights, with the adapters in place: tensors with shapes and no values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import nn

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.blocks import wanted_modules
from reflora_cli.adapters.frozen import is_adaptable, is_transposed
from reflora_cli.adapters.in_place import matched_parameters
from reflora_cli.adapters.inject import inject, too_small
from reflora_cli.adapters.low_rank import hold_first_factors
from reflora_cli.adapters.quantized import FourBitWeight, Int8Weight, QuantizedWeight
from reflora_cli.ground.paths import expanded, is_directory, is_file
from reflora_cli.methods.settings import Attention, Quantization
from reflora_cli.model.attention import attention_argument
from reflora_cli.model.auto import auto_class, load_config
from reflora_cli.model.base import Base
from reflora_cli.model.fit import check_length, check_tokens
from reflora_cli.model.labels import labelled, refuse_foreign_head, said_labels
from reflora_cli.model.language import check_end
from reflora_cli.model.load import load_tokenizer, loading_errors, quiet_transformers, refuse_endless
from reflora_cli.model.quantize import checkpoint_quantization, refuse_quantized, unquantized
from reflora_cli.model.sources import Source, find_source
from reflora_cli.objectives.kind import Kind
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.reach import unused_parameters
from reflora_cli.planning.streamed import Streamed, streamed_of
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.recipe.tasks import task_of

BLOCK, NESTED_BLOCK = 64, 256
"""The weights that share a scale in bitsandbytes' four bits, and the scales that share one if they are quantized."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.txt",
                   "vocab.json")  # fmt: skip
TRIAL = (1, 8)
"""The rows and tokens of the pass that shows which modules a task uses."""


@dataclass(frozen=True)
class Plain:
    """What is known of a base from its config alone.

    tokenizer: None where its files are not at hand. dtype: that of the frozen base. attention: the argument by
    which its model is made.
    """

    kind: Kind
    source: Source
    config: Any
    tokenizer: Any
    dtype: torch.dtype
    attention: Mapping[str, str]

    @property
    def has_weights(self) -> bool | None:
        """Whether the weights are at hand; None for a model on the hub, of which that is not asked."""
        if not self.source.is_local:
            return None
        return any(expanded(self.source.location).glob("*.safetensors"))


@dataclass(frozen=True)
class Skeleton:
    """A base without weights and what is adapted of it. left_out: modules that `all-linear` leaves out. streamed: its
    weights that come and go.
    """

    base: Base
    adapted: Adapted
    left_out: tuple[str, ...]
    streamed: Streamed

    @property
    def model(self) -> nn.Module:
        return self.base.model


def read_base(recipe: Recipe, dtype: torch.dtype) -> Plain:
    """Return the base that a recipe names. Raises InputError for one that training would refuse by its config."""
    section, task = recipe.model, task_of(recipe.task)
    kind, source = kind_of(task), config_source(section)
    with quiet_transformers(), loading_errors(source):
        config = kind.configure(section, source)
        refuse_endless(config, source)
        refuse_quantized(section, config)
        tokenizer = load_tokenizer(source) if has_tokenizer(source) else None
        if tokenizer is not None:
            check_tokens(config, tokenizer, source)
            config.pad_token_id = tokenizer.pad_token_id
        elif config.pad_token_id is None:
            config.pad_token_id = 0
        attention = attention_argument(traced_attention(section), auto_class(kind.auto_class), config)
    return Plain(kind, source, config, tokenizer, dtype, attention)


def traced_attention(section: ModelSection) -> ModelSection:
    """Return a base's section for a pass without values: kernels that a GPU alone has keep what `sdpa` keeps, which is
    what `auto` takes where a model has it.
    """
    traced = section.attention in (Attention.SDPA, Attention.EAGER)
    return section if traced else section.model_copy(update={"attention": Attention.AUTO})


def config_source(section: ModelSection) -> Source:
    """Return where the base's config is: a directory without weights too. Raises InputError."""
    path = expanded(section.name)
    if is_directory(path) and is_file(path / "config.json"):
        return Source(section.name, str(path.resolve()), None, is_local=True)
    return find_source(section.name, section.revision)


def has_tokenizer(source: Source) -> bool:
    """Whether a tokenizer's files are at hand; one on the hub is fetched."""
    if not source.is_local:
        return True
    return any(is_file(expanded(source.location) / name) for name in TOKENIZER_FILES)


def examined(recipe: Recipe, plain: Plain) -> tuple[str, ...]:
    """Check the base's shapes against the recipe, under FakeTensorMode, and return the modules, or parameters of the
    base, that are not adapted although `all-linear` names them. Raises InputError.

    It is done on a model of its own: one that has run cannot be cast in place any more.
    """
    return out_of_reach(recipe, plain.kind, checked(bare_base(recipe, plain), recipe, plain))


def bare_base(recipe: Recipe, plain: Plain, blocks: int | None = None) -> Base:
    """Return the base without weights and without adapters. blocks: the number of its blocks; None: all."""
    with quiet_transformers(), loading_errors(plain.source):
        config = copy.deepcopy(plain.config) if blocks is None else with_blocks(plain.config, blocks)
        if checkpoint_quantization(config) is not None:
            del config.quantization_config
        make = auto_class(plain.kind.auto_class).from_config
        model = make(config, dtype=plain.dtype, trust_remote_code=False, **plain.attention)
    head = plain.kind.head(model)
    base = Base(model, cast(Any, plain.tokenizer), plain.source, None, fresh=head, head=head)
    return replace(base, reserved=recipe.method.layer.reserved)


def skeleton(recipe: Recipe, plain: Plain, left_out: tuple[str, ...], blocks: int | None = None) -> Skeleton:
    """Return the adapted base, without weights, under FakeTensorMode. left_out: what `examined` returned. blocks: the
    number of its blocks; None: all.

    Raises InputError for targets that do not fit it, and for streamed weights that would be trained.
    """
    base = bare_base(recipe, plain, blocks)
    trainable, saved = base.trainable(recipe.method), base.saved(recipe.method)
    was_quantized = checkpoint_quantization(plain.config)
    quantization = recipe.model.quantization if was_quantized is None else Quantization(was_quantized)
    if quantization is not Quantization.NONE:
        quantize_shapes(base.model, quantization, recipe.model.double_quant, plain.dtype)
    streamed = streamed_of(base, recipe.model.streaming)
    adapted = inject(base.model, recipe.method, trainable, saved, left_out)
    streamed.refuse_trained(adapted.parameters)
    if recipe.train.gradient_checkpointing:
        base.recompute_activations()
    if recipe.method.update.holds_a:
        hold_first_factors(adapted)
    return Skeleton(base, adapted, left_out, streamed)


def checked(base: Base, recipe: Recipe, plain: Plain) -> Base:
    """Return the base with its outputs named. Raises InputError for rows that are too long, for another head's labels,
    and for a tokenizer that cannot end an answer.
    """
    task = task_of(recipe.task)
    brings_head = any("SequenceClassification" in name for name in plain.config.architectures or ())
    if base.head:
        # What the config of the checkpoint says; the skeleton's own names outputs as the task does.
        with quiet_transformers(), loading_errors(plain.source):
            said = said_labels(original_config(plain)) if brings_head else ()
        base = labelled(base, task, said)
        refuse_foreign_head(base, task)
    if plain.tokenizer is not None:
        if not base.head:
            check_end(base)
        check_length(base, recipe.task.max_length)
    return base


def original_config(plain: Plain) -> Any:
    """Return the config as the checkpoint has it."""
    return load_config(plain.source.location, plain.source.revision)


def checkpoint_dtype(plain: Plain) -> torch.dtype | None:
    """Return the dtype of the checkpoint's weights, as its config says; None if it does not."""
    found = getattr(original_config(plain), "dtype", None)
    return found if isinstance(found, torch.dtype) else None


def with_blocks(config: Any, blocks: int) -> Any:
    """Return a copy of a config with fewer blocks."""
    copied = copy.deepcopy(config)
    text = copied.get_text_config()
    text.num_hidden_layers = blocks
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:blocks]
    return copied


def out_of_reach(recipe: Recipe, kind: Kind, base: Base) -> tuple[str, ...]:
    """Return the modules that `all-linear` leaves out because nothing leads from them to the loss, or because they are
    too small; where the base itself is trained, parameters. Named targets leave none out.
    """
    method, saved, model = recipe.method, base.saved(recipe.method), cast(Any, base.model)

    def read() -> torch.Tensor:
        arguments = {**token_inputs(*TRIAL), **kind.made_up_answers(TRIAL[0], TRIAL[1] - 1)}
        with torch.enable_grad():
            loss: torch.Tensor = kind.loss_module(recipe, model)(**arguments)
        return loss

    if method.layer.is_virtual:
        return ()
    model.eval()
    if method.layer.in_place:
        found = matched_parameters(model, method.layer, method.targets, saved)
        return tuple(unused_parameters(model, list(dict.fromkeys(n for own in found.values() for n in own)), read))
    if method.targets != "all-linear":
        return ()
    names = list(dict.fromkeys(n for own in wanted_modules(model, method.layer, method.targets, saved).values()
                               for n in own))  # fmt: skip
    unused = {name.removesuffix(".weight") for name in unused_parameters(model, [f"{n}.weight" for n in names], read)}
    small = set(too_small(model, method, names))
    left = unused | small
    return () if len(left) == len(names) else tuple(name for name in names if name in left)


def token_inputs(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Return the tokens and the mask of a batch [rows, length], int64."""
    ids = torch.zeros(rows, length, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def quantize_shapes(model: nn.Module, kind: Quantization, double: bool, dtype: torch.dtype) -> None:
    """Put quantized weights of the same shapes in the place of the linear layers that loading would quantize."""
    skipped = unquantized(model)
    wanted = [
        name
        for name, module in model.named_modules()
        if is_adaptable(module) and not any(name == own or name.startswith(f"{own}.") for own in skipped)
    ]
    for name in wanted:
        model.set_submodule(name, quantized_shape(model.get_submodule(name), kind, double, dtype))


def quantized_shape(module: nn.Module, kind: Quantization, double: bool, dtype: torch.dtype) -> QuantizedWeight:
    """Return a quantized weight without values for a linear layer."""
    weight, bias = cast(torch.Tensor, module.weight), cast("torch.Tensor | None", module.bias)
    out, into = weight.shape if not is_transposed(type(module)) else weight.T.shape
    if kind is Quantization.INT8:
        codes = torch.empty(out, into, dtype=torch.int8)
        return Int8Weight(codes, torch.empty(out), bias, dtype, type(module))
    blocks = -(-out * into // BLOCK)
    inner = SimpleNamespace(
        blocksize=NESTED_BLOCK, absmax=torch.empty(-(-blocks // NESTED_BLOCK)), code=torch.empty(256)
    )
    state = SimpleNamespace(
        shape=(out, into), dtype=dtype, quant_type=kind.value, blocksize=BLOCK, nested=double, state2=inner,
        absmax=torch.empty(blocks, dtype=torch.uint8 if double else torch.float32), code=torch.empty(16),
        offset=torch.empty(()),
    )  # fmt: skip
    return FourBitWeight(torch.empty((out * into + 1) // 2, 1, dtype=torch.uint8), state, bias, type(module))


def without_values() -> AbstractContextManager[Any]:
    """Return a mode under which tensors have shapes and no values; those of one mode go together."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)
