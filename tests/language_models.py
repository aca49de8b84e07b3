"""Small random causal language models, one per architecture that we must handle, with the tiny model's vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from reflora_cli.data.encode_prompts import PromptRow
from reflora_cli.model.base import Base
from reflora_cli.sources import Source, find_source

TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES: dict[str, Any] = {
    "vocab_size": 1500,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    **TOKENS,
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}


def gpt2() -> PreTrainedModel:
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=1500, n_embd=32, n_layer=2, n_head=4, n_positions=256, **quiet, **TOKENS)
    )


MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=False)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, tie_word_embeddings=True)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=None)),
    "mistral-window": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=16)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"})),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**GROUPED)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**GROUPED, final_logit_softcapping=3.0, sliding_window=16)),
    "gpt2": gpt2,
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, hidden_dropout=0.0, attention_dropout=0.0)),
}


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """The model with weights large enough that adapters and attention matter."""
    torch.manual_seed(seed)
    model = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    return model


def tokenizer() -> PreTrainedTokenizerBase:
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(find_source("builtin:tiny-llama", None).location)
    return found


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
    return PromptRow(np.array(tokens, dtype=np.int32), supervised)
