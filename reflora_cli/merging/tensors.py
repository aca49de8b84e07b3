"""Make the tensors of a merged model one at a time from the adapter model in memory.

Training saw the model as it was loaded: its dtypes, its quantized weights, and which of its parameters are shared. A
merge takes all of that from the same loader, so that no rule of loading is written twice. The checkpoint's files only
tell how they name their tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.adapter_io.tensor_files import Announced, TensorPlace
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.model.load import quiet_transformers
from reflora_cli.model.originals import model_name
from reflora_cli.model.quantize import skeleton

MakeModule = Callable[[], nn.Module]


@dataclass(frozen=True)
class MergedTensors:
    """The merged model's tensors; iterating yields them by name.

    names: the names that are written, sorted, with their shapes. state: the adapter model's tensors. plain: for every
    adapted or quantized module, the function that makes its plain module. dtype: the dtype of all floating-point
    tensors.
    """

    names: dict[str, tuple[int, ...]]
    state: Mapping[str, Tensor]
    plain: Mapping[str, MakeModule]
    dtype: torch.dtype

    def announced(self) -> list[Announced]:
        """Return names, dtypes and shapes of the tensors that iterating yields, in its order."""
        return [Announced(name, self.dtype_of(name), shape) for name, shape in self.names.items()]

    def dtype_of(self, name: str) -> torch.dtype:
        tensor = self.state.get(name) if name.rpartition(".")[0] not in self.plain else None
        return self.dtype if tensor is None or tensor.is_floating_point() else tensor.dtype

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors one after the other; each is summed in float32 and cast once."""
        made: tuple[str, Mapping[str, Tensor]] = ("", {})
        for name in self.names:
            module, _, kind = name.rpartition(".")
            if module in self.plain and made[0] != module:
                made = (module, self.plain[module]().state_dict())
            tensor = made[1][kind] if module in self.plain else self.state[name]
            yield name, tensor.to(self.dtype_of(name))


def plain_modules(model: nn.Module, adapted: Adapted, dtype: torch.dtype) -> dict[str, MakeModule]:
    """Return for every adapted or quantized module the function that makes a plain module with the same output."""
    layers = {name: layer for name, layer in adapted.layers.items() if isinstance(layer, AdapterLayer)}
    inside = {f"{name}.frozen" for name in layers}
    quantized = {
        name: own for name, own in model.named_modules() if isinstance(own, QuantizedWeight) and name not in inside
    }
    return {
        **{name: partial(layer.plain, dtype) for name, layer in layers.items()},
        **{name: partial(dense_module, weight, dtype) for name, weight in quantized.items()},
    }


def dense_module(weight: QuantizedWeight, dtype: torch.dtype) -> nn.Module:
    """Return the quantized module as a plain one."""
    return weight.thaw(weight.dense().to(dtype))


def merged_tensors(model: Any, adapted: Adapted, dtype: torch.dtype) -> MergedTensors:
    """Return the tensors of the merged model; afterwards its config says whether parameters are still tied."""
    left_out = {*kept_ties(model, adapted), *(getattr(model, "_keys_to_ignore_on_save", None) or ())}
    expected = plain_skeleton(model).state_dict()
    names = {name: tuple(expected[name].shape) for name in sorted(expected) if name not in left_out}
    return MergedTensors(names, model.state_dict(), plain_modules(model, adapted, dtype), dtype)


def plain_skeleton(model: Any) -> Any:
    """Return the model that transformers builds from the config, without weights."""
    with quiet_transformers():
        return skeleton(type(model), model.config)


def tied_names(model: Any) -> dict[str, str]:
    """Return the names of parameters that the config ties, each with the name of the parameter that it is tied to."""
    return dict(plain_skeleton(model).all_tied_weights_keys)


def kept_ties(model: Any, adapted: Adapted) -> dict[str, str]:
    """Return the tied names that the merged model keeps: all of them, or none.

    If one of them has become a parameter of its own, or was one in the checkpoint, the config is changed to say that
    nothing is tied, since it has one entry for all.
    """
    tied = tied_names(model)
    if all(is_shared(model, adapted, *pair) for pair in tied.items()):
        return tied
    model.config.get_text_config(decoder=True).tie_word_embeddings = False
    model.config.tie_word_embeddings = False
    return {}


def is_shared(model: nn.Module, adapted: Adapted, *names: str) -> bool:
    """Whether two names are one parameter, and no adapter changes it under one of the names."""
    if any(name.removesuffix(".weight") in adapted.layers for name in names):
        return False
    first, second = (getattr(model.get_submodule(path), kind) for path, _, kind in (n.rpartition(".") for n in names))
    return first is second


def named_alike(names: Mapping[str, tuple[int, ...]], places: Mapping[str, TensorPlace], prefix: str) -> bool:
    """Whether a checkpoint has tensors of these names and shapes; if not, only transformers can write it.

    Files of a body alone lack its prefix, and very old ones say gamma and beta. The shape of a quantized weight is not
    compared.
    """
    found = {name: place for key, place in places.items() if (name := model_name(key, names, prefix)) is not None}
    return found.keys() == names.keys() and all(
        place.shape == names[name] for name, place in found.items() if place.dtype.is_floating_point
    )
