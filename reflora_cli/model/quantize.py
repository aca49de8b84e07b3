"""Load a base model with its linear layers quantized.

transformers reads the checkpoint tensor by tensor and bitsandbytes quantizes each at once, so the model never exists
whole in full precision. This always happens on the CPU, so that a model trained on a GPU and merged on a laptop has the
same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from reflora_cli.adapters.quantized import QuantizedWeight, from_bitsandbytes, is_bitsandbytes
from reflora_cli.adapters.streamed import frozen_weights
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Quantization
from reflora_cli.recipe.sections import ModelSection

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


def refuse_quantized(section: ModelSection, config: Any) -> None:
    """Raises InputError for a checkpoint that is quantized already, if it cannot be used or is not quantized as
    asked for.
    """
    kind = checkpoint_quantization(config)
    if kind is None:
        return
    where = f"model.name: {section.name}"
    if kind not in tuple(Quantization):
        what = f"the base model is quantized by {kind}"
        expected = "float32, bfloat16 or float16 weights, or nf4, fp4 or int8 by bitsandbytes"
        remedy = "use the unquantized original model, with model.quantization=nf4 to save memory"
        raise InputError(Problem(what, where, kind, expected, remedy))
    if section.quantization not in (Quantization.NONE, kind):
        what = f"the base model is already quantized, as {kind}"
        remedy = f"set model.quantization=none, or model.quantization={kind}"
        raise InputError(Problem(what, "model.quantization", section.quantization, kind, remedy))


def checkpoint_quantization(config: Any) -> str | None:
    """Return how a checkpoint is quantized: a `Quantization` by bitsandbytes, another method's name, or None."""
    found = next((own for part in (config, config.get_text_config()) if (own := quantization_of(part))), None)
    if found is None:
        return None
    said: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    if said.get("load_in_8bit"):
        return Quantization.INT8.value
    if said.get("load_in_4bit"):
        return str(said.get("bnb_4bit_quant_type", "fp4"))  # the default of transformers
    return str(said.get("quant_method", "an unknown method"))


def quantization_of(config: Any) -> Any:
    return getattr(config, "quantization_config", None)


def loading_arguments(section: ModelSection, config: Any, auto_class: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Return the arguments of `from_pretrained`; none for a base that is not quantized and is not to be."""
    if checkpoint_quantization(config) is not None:
        return {"device_map": {"": "cpu"}}
    if section.quantization is Quantization.NONE:
        return {}
    skipped = unquantized(skeleton(auto_class.from_config, config))
    return {"quantization_config": bitsandbytes_config(section, skipped, dtype), "device_map": {"": "cpu"}}


def bitsandbytes_config(section: ModelSection, skipped: list[str], dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return bitsandbytes' settings. skipped: the full names of modules that stay as they are."""
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
    """Return the model that `make` builds from a config, without weights."""
    with torch.device("meta"):
        return make(config)


def unquantized(model: Any) -> list[str]:
    """Return the modules that are not quantized: those outside the pretrained body, the output embedding, and
    poolers.
    """
    output = model.get_output_embeddings()
    outside = [name for name, _ in model.named_children() if name != model.base_model_prefix]
    inside = [name for name, child in model.named_modules() if child is output or name.split(".")[-1] == "pooler"]
    return [*outside, *inside]


def adopt(model: Any, dtype: torch.dtype) -> None:
    """Replace bitsandbytes' modules by our frozen weights, in place; they share the storage.

    If a checkpoint is quantized already, transformers leaves its other weights in their own dtype, whatever was asked
    for. They are cast here, except those that the architecture keeps in float32.
    """
    found = {name: module for name, module in model.named_modules() if is_bitsandbytes(module)}
    if not found:
        return
    plain = skeleton(type(model), model.config)
    for name, module in found.items():
        layout = type(plain.get_submodule(name))
        model.set_submodule(name, from_bitsandbytes(module, dtype, layout))
    for name, parameter in model.named_parameters():
        # A view of the mapped file would keep all of it mapped.
        parameter.data = parameter.data.to(kept_dtype(model, name, dtype), copy=True)
    # What is left is an ordinary model: it may be moved, and saved once its weights are dense again.
    model.is_quantized = False
    loading = ("is_loaded_in_4bit", "is_loaded_in_8bit", "_weight_conversions")
    for attribute in ("hf_quantizer", "quantization_method", *loading):
        if attribute in vars(model):
            delattr(model, attribute)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config


def kept_dtype(model: Any, name: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which transformers loads a parameter: some architectures keep some in float32."""
    kept = list(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype is torch.float16:
        kept += getattr(model, "_keep_in_fp32_modules", None) or ()
    return torch.float32 if any(part in name for part in kept) else dtype


def quantized_kind(model: nn.Module) -> str:
    """Return how the model's weights are quantized, whether on loading or in the checkpoint already."""
    kinds = sorted({module.kind for module in frozen_weights(model) if isinstance(module, QuantizedWeight)})
    return " and ".join(kinds) or Quantization.NONE.value


def bits_per_weight(model: nn.Module) -> float | None:
    """Return the stored bits per quantized weight, scales included; None where nothing is quantized."""
    weights = [module for module in frozen_weights(model) if isinstance(module, QuantizedWeight)]
    if not weights:
        return None
    return sum(module.stored_bits() for module in weights) / sum(m.in_features * m.out_features for m in weights)
