"""Load a base model with its linear layers in few bits.

transformers reads the checkpoint tensor by tensor and bitsandbytes packs each at once, so the model never exists whole
in full precision. It always happens on the CPU: a model trained on a GPU and merged on a laptop has the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapters.quantized import QuantizedWeight, from_bitsandbytes, is_bitsandbytes
from reflora_cli.recipe import ModelSection, Quantization

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


def loading_arguments(section: ModelSection, config: Any, auto_class: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` needs to be told; nothing for a base that is not to be quantized."""
    if section.quantization is Quantization.NONE:
        return {}
    skipped = unquantized(skeleton(auto_class.from_config, config))
    return {"quantization_config": bitsandbytes_config(section, skipped, dtype), "device_map": {"": "cpu"}}


def bitsandbytes_config(section: ModelSection, skipped: list[str], dtype: torch.dtype) -> BitsAndBytesConfig:
    """skipped: modules to be left as they are, by full name."""
    from transformers import BitsAndBytesConfig

    if section.quantization is Quantization.INT8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.quantization.value,
        bnb_4bit_use_double_quant=section.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def skeleton(make: Callable[[Any], Any], config: Any) -> Any:
    """The model that `make` builds of a configuration, without any weights."""
    with torch.device("meta"):
        return make(config)


def unquantized(model: Any) -> list[str]:
    """Modules that stay as they are: all outside the pretrained body (heads), the output embedding, and poolers."""
    output = model.get_output_embeddings()
    outside = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    inside = [name for name, child in model.named_modules() if child is output or name.split(".")[-1] == "pooler"]
    return [*outside, *inside]


def adopt(model: Any, dtype: torch.dtype) -> None:
    """Replace bitsandbytes' modules by our frozen weights, in place; they share the storage."""
    found = {name: module for name, module in model.named_modules() if is_bitsandbytes(module)}
    if not found:
        return
    plain = skeleton(type(model), model.config)
    for name, module in found.items():
        transposed = isinstance(plain.get_submodule(name), Conv1D)
        model.set_submodule(name, from_bitsandbytes(module, dtype, transposed=transposed))
    for parameter in model.parameters():
        # A view of the mapped file would keep all of it mapped.
        parameter.data = parameter.data.clone()
    # What is left is an ordinary model: it may be moved, and saved once its weights are dense again.
    model.is_quantized = False
    loading = ("is_loaded_in_4bit", "is_loaded_in_8bit", "_weight_conversions")
    for attribute in ("hf_quantizer", "quantization_method", *loading):
        if attribute in vars(model):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def bits_per_weight(model: nn.Module) -> float | None:
    """Stored bits for each quantized weight, scales included; None where nothing is quantized."""
    weights = [module for module in model.modules() if isinstance(module, QuantizedWeight)]
    if not weights:
        return None
    return sum(module.stored_bits() for module in weights) / sum(m.in_features * m.out_features for m in weights)
