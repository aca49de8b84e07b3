"""Load what every kind of base model needs: its tokenizer, its weights as they are or quantized, readable errors.

Only safetensors are loaded, and code from a checkpoint is never run.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from reflora_cli.console.stream import is_terminal
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.hub_errors import hub_reason
from reflora_cli.model.attention import attention_argument
from reflora_cli.model.base import Base
from reflora_cli.model.fit import check_tokens, leave_out_types
from reflora_cli.model.originals import remember_originals
from reflora_cli.model.quantize import adopt, loading_arguments, refuse_quantized
from reflora_cli.model.sources import Source, commit_of
from reflora_cli.model.streaming import stream_blocks
from reflora_cli.recipe.sections import ModelSection

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SAFE: dict[str, Any] = {
    "use_safetensors": True,
    "trust_remote_code": False,
    "ignore_mismatched_sizes": True,
    "adapter_kwargs": {"subfolder": "no-adapter-beside-the-base"},
}
"""Arguments with which transformers loads no pickle and runs no code from a checkpoint. Callers
handle sizes that do not fit, which the report lists.

Where peft is installed, transformers puts an adapter that lies beside a base's weights on the base. It is told to look
for one in a folder that does not exist, so that a base is the same everywhere.
"""
MOST_LAYERS = 10_000
Configure = Callable[[Source], Any]
"""A function from a source to the config with which to load the model."""


def load_pretrained(
    auto_class: Any, section: ModelSection, source: Source, dtype: torch.dtype, configure: Configure
) -> tuple[Base, dict[str, Any]]:
    """Load a base on the CPU, and return it with transformers' report on the weights that the checkpoint lacks.

    Missing weights are drawn from torch's current generator. Raises InputError for a model that cannot be read.
    """
    with quiet_transformers(), loading_errors(source):
        tokenizer = load_tokenizer(source)
        config = configure(source)
        refuse_endless(config, source)
        check_tokens(config, tokenizer, source)
        config.pad_token_id = tokenizer.pad_token_id
        refuse_quantized(section, config)
        if hasattr(config, "rescale_every"):
            # In evaluation RWKV halves later blocks' weights, against overflow in float16, but not their adapters.
            config.rescale_every = 0
        quantization = loading_arguments(section, config, auto_class, dtype)
        attention = attention_argument(section, auto_class, config)
        model, report = auto_class.from_pretrained(
            source.location, config=config, revision=source.revision, dtype=dtype, **quantization, **attention, **SAFE,
            output_loading_info=True,
        )  # fmt: skip
        adopt(model, dtype)
        remember_originals(model, source)
        stream_blocks(model, section.streaming, source, drawn_parameters(report))
        leave_out_types(model, tokenizer)
    return Base(model, tokenizer, source, commit_of(source), fresh=(), head=()), report


def drawn_parameters(report: dict[str, Any]) -> set[str]:
    """Return the parameters that transformers has drawn at random: the files lack them, or hold other shapes."""
    other = (entry[0] if isinstance(entry, tuple) else entry for entry in report["mismatched_keys"])
    return {*report["missing_keys"], *map(str, other)}


def refuse_endless(config: Any, source: Source) -> None:
    """Raises InputError for a config so large that building its model would take hours before any other error."""
    layers = getattr(config.get_text_config(), "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > MOST_LAYERS:
        what, where = (
            "the base model's config names an impossible number of layers",
            f"model.name: {source.name}, num_hidden_layers",
        )
        raise InputError(Problem(what, where, f"{layers:,}", f"at most {MOST_LAYERS:,}"))


def load_tokenizer(source: Source) -> PreTrainedTokenizerBase:
    """Load the source's tokenizer; one without a pad token pads with its end token."""
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source.location, revision=source.revision, trust_remote_code=False
    )
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            problem = Problem(
                "the tokenizer has neither a pad nor an end-of-sequence token",
                where=f"model.name: {source.name}",
                expected="one of the two, for padding",
                remedy="set pad_token in its tokenizer_config.json",
            )
            raise InputError(problem)
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' load reports, since we check and report what matters. Downloads have bars on a
    terminal.
    """
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils import logging as transformers_logging

    # bitsandbytes says at its import that it has looked for faster kernels on the hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    if is_terminal():
        enable_progress_bars()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def loading_errors(source: Source) -> Iterator[None]:
    """Turn a library's exception into an InputError that says what is wrong with the user's model."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        where = f"model.name: {source.name} ({source.location})"
        raise InputError(Problem("the base model's weights are damaged", where, str(error))) from error
    except InputError:
        raise
    except Exception as error:  # a hostile or broken config fails anywhere in transformers
        what = "the base model cannot be loaded"
        reason = None if source.is_local else hub_reason(error, source.location, "a local directory as model.name")
        if reason is not None:
            raise InputError(Problem(what, f"model.name: {source.name}", reason.found, remedy=reason.remedy)) from error
        remedy = "" if source.is_local else "check the name and the network, or give a local directory"
        first = str(error).strip().partition("\n")[0]
        found = f"{type(error).__name__}: {first}" if first else type(error).__name__
        raise InputError(Problem(what, f"model.name: {source.name}", found, remedy=remedy)) from error
