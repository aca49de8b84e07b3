"""Small random causal language models by name, with the tiny model's vocabulary, and what tests do with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from reflora_cli.data.encode_prompts import PromptRow, from_place
from reflora_cli.model.base import Base
from reflora_cli.model.sources import Source
from tests.architectures import DECODERS
from tests.random_models import language_model, widened
from tests.tokenizers import tiny_tokenizer as tokenizer

MODELS = (
    "llama", "llama-tied", "mistral", "mistral-window", "qwen2", "qwen3", "gemma", "gemma2", "gpt2", "gpt-neox",
)  # fmt: skip
"""Those that every part of language models is tried on; `make` knows all of `tests.architectures`."""


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """The model with weights large enough that adapters and attention matter."""
    torch.manual_seed(seed)
    return widened(language_model(DECODERS[name]), 0.15)


def base(name: str, dtype: torch.dtype = torch.float32) -> Base:
    """The model as our loader hands it over."""
    return Base(make(name).to(dtype), tokenizer(), Source(name, name, None, is_local=True), None, (), ())


def saved(name: str, directory: Path) -> Path:
    """The model as a local checkpoint with the tiny model's tokenizer."""
    make(name).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def prompt_row(tokens: Sequence[int], supervised: int) -> PromptRow:
    """A row of these tokens."""
    return from_place(np.array(tokens, dtype=np.int32), supervised)
