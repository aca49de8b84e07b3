"""Find in a checkpoint's files the weights from which a base was quantized.

The base in memory has their codes only. Some starts need the weights themselves, and read them one at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from reflora_cli.adapter_io.tensor_files import TensorPlace, tensor_places
from reflora_cli.adapters.frozen import is_transposed
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.model.sources import Source, local_directory


def remember_originals(model: Any, source: Source) -> None:
    """Tell the quantized weights of a model that was just loaded from where their originals can be read, in place.

    The files are looked at when the first of them is asked for.
    """
    quantized = {name: own for name, own in model.named_modules() if isinstance(own, QuantizedWeight)}
    names, prefix = dict.fromkeys(f"{name}.weight" for name in quantized), model.base_model_prefix

    @functools.cache
    def places() -> dict[str, TensorPlace]:
        found = ((model_name(key, names, prefix), own) for key, own in tensor_places(local_directory(source)).items())
        return {name: own for name, own in found if name is not None and own.dtype.is_floating_point}

    for name, own in quantized.items():
        own.read_original = reader(places, f"{name}.weight", is_transposed(own.layout))


def reader(places: Callable[[], Mapping[str, TensorPlace]], name: str, transposed: bool) -> Callable[[], Tensor | None]:
    """Return the function that reads one weight, [out, in], float32 in memory of its own; None where the files hold
    quantized weights, or name them otherwise than the model.

    transposed: whether the files hold it [in, out].
    """

    def read() -> Tensor | None:
        place = places().get(name)
        if place is None:
            return None
        tensor = place.read()
        layout = torch.contiguous_format
        return (tensor.T if transposed else tensor).to(torch.float32, copy=True, memory_format=layout)

    return read


def model_name(key: str, names: Mapping[str, Any], prefix: str) -> str | None:
    """Return the model's name for a checkpoint's tensor; None for a tensor that the model does not use."""
    modern = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    possible = (name for each in (key, modern) for name in (each, f"{prefix}.{each}", each.removeprefix(f"{prefix}.")))
    return next((name for name in possible if name in names), None)
