"""What loading any base model shares: its tokenizer, quiet libraries, readable errors.

Safetensors only, remote code never.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reflora_cli.errors import InputError, Problem
from reflora_cli.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars, no load reports: what matters of them is checked and said by us."""
    from transformers.utils import logging as transformers_logging

    # bitsandbytes says at its import that it has looked for faster kernels on the hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
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
