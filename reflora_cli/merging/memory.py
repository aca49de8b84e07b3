"""Merge a model that is in memory: for bases whose files transformers rearranges while it loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from reflora_cli.adapters.inject import Adapted
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.restore import Restored


def write_from_memory(restored: Restored, dtype: torch.dtype, directory: Path) -> None:
    """Turn the restored model into a plain one in `dtype` and save it."""
    make_plain(restored, dtype)
    restored.base.model.save_pretrained(directory, safe_serialization=True)


@torch.no_grad()
def make_plain(restored: Restored, dtype: torch.dtype) -> None:
    """Turn the restored model into a plain one in `dtype`, in place."""
    assert restored.adapted is not None
    model = restored.base.model
    for name, module in merged_modules(restored.adapted, dtype).items():
        model.set_submodule(name, module)
    packed = {name: module for name, module in model.named_modules() if isinstance(module, QuantizedWeight)}
    for name, weight in packed.items():
        model.set_submodule(name, weight.thaw(weight.dense().to(dtype)))
    nn.Module.to(model, dtype)
    model.config.dtype = dtype
    untie(model)


def untie(model: Any) -> None:
    """Let the config say it when a head that was tied to the embedding now has a weight of its own."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False


def merged_modules(adapted: Adapted, dtype: torch.dtype) -> dict[str, nn.Module]:
    """For every adapted module the plain one that computes the same, its weight summed in float32 and cast once."""
    return {name: layer.frozen.thaw(layer.merged().to(dtype)) for name, layer in adapted.layers.items()}
