"""What a merged checkpoint is made of, tensor by tensor, found without loading a model.

A checkpoint names its tensors almost as the model does: files of a body alone lack its prefix, very old ones say gamma
and beta. A checkpoint whose tensors transformers rearranges while it loads has no such plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapter_config import is_target
from reflora_cli.adapter_files import AdapterFiles
from reflora_cli.adapter_keys import saved_modules
from reflora_cli.adapter_loading import restored_layer, split_tensors, untied_modules
from reflora_cli.adapters.frozen import freeze, linear_of
from reflora_cli.adapters.inject import adaptable_names
from reflora_cli.adapters.quantized import pack
from reflora_cli.adapters.ties import is_inside
from reflora_cli.model.quantize import unquantized
from reflora_cli.recipe import ModelSection, Quantization
from reflora_cli.tensor_files import Announced, TensorPlace, tensor_places

SHARD_SIZE = 5_000_000_000
"""Bytes of one file of weights, as transformers writes them."""


@dataclass(frozen=True)
class MergePlan:
    """A merge, ready to be carried out.

    skeleton: the merged model without weights. section: the base; with `quantization: none` nothing is packed.
    seen: the dtype in which training saw the base's weights; None to take them as they are in the checkpoint.
    sources: where each of the merged model's tensors is in the base's files; one of `whole` comes from the adapter.
    factors: A, B and m by module. packed: modules quantized in training. unties: the head gets a weight of its own.
    """

    skeleton: Any
    section: ModelSection
    files: AdapterFiles
    seen: torch.dtype | None
    sources: dict[str, TensorPlace]
    whole: dict[str, Tensor]
    factors: dict[str, dict[str, Tensor]]
    packed: frozenset[str]
    unties: bool

    def announced(self, dtype: torch.dtype) -> list[Announced]:
        """Names, dtypes and shapes of what `tensors` gives, in its order."""
        read = {name: (place.dtype, place.shape) for name, place in self.sources.items()}
        own = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in self.whole.items()}
        return [
            Announced(name, dtype if kind.is_floating_point else kind, shape)
            for name, (kind, shape) in {**read, **own}.items()
        ]

    @torch.no_grad()
    def tensors(self, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
        """The merged model's tensors one after the other: summed in float32, cast once."""
        for name, place in self.sources.items():
            yield name, self.merged(name, place.read(), dtype) if name not in self.whole else self.cast(name, dtype)
        for name in self.whole:
            if name not in self.sources:
                yield name, self.cast(name, dtype)

    def cast(self, name: str, dtype: torch.dtype) -> Tensor:
        tensor = self.whole[name]
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    def merged(self, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """One tensor of the merged model from the base's."""
        if not tensor.is_floating_point():
            return tensor
        module, _, kind = name.rpartition(".")
        if self.seen is not None:
            tensor = tensor.to(self.seen)
        if kind != "weight" or (module not in self.factors and module not in self.packed):
            return tensor.to(dtype)
        transposed = isinstance(self.skeleton.get_submodule(module), Conv1D)
        weight = tensor.T if transposed else tensor
        base = self.base_module(module, weight.contiguous())
        if module in self.factors:
            dense = restored_layer(self.files, module, base, self.factors[module]).merged()
        else:
            dense = freeze(base).dense()
        return (dense.T if transposed else dense).to(dtype)

    def base_module(self, module: str, weight: Tensor) -> nn.Module:
        """The module as it was in training, without its bias. weight: [out, in]."""
        if module in self.packed:
            kind, double = self.section.quantization.value, self.section.double_quant
            return pack(weight, None, kind, double=double, dtype=weight.dtype, transposed=False)
        return linear_of(weight, None)


def make_plan(
    skeleton: Any, section: ModelSection, files: AdapterFiles, directory: Path, seen: torch.dtype | None
) -> MergePlan | None:
    """The plan for a base whose weights lie in `directory`; None when its tensors are not those of the model.

    For the other arguments see `MergePlan`.
    """
    saved = saved_modules(skeleton, files.config)
    factors, whole = split_tensors(skeleton, files, saved)
    own = {f"{module}.{name}": tensor for module, tensors in whole.items() for name, tensor in tensors.items()}
    named = named_sources(skeleton, directory)
    head, embedding = tied_names(skeleton)
    unties = head is not None and (
        head in factors or bool({head, embedding} & set(untied_modules(skeleton, files, whole)))
    )
    if head and embedding:
        place = named.pop(f"{head}.weight", named.get(f"{embedding}.weight"))
        if unties and place is not None:
            named[f"{head}.weight"] = place
        if not unties and f"{head}.weight" in own:  # they trained together, and are equal where both are written
            own[f"{embedding}.weight"] = own.pop(f"{head}.weight")
    tied = {f"{head}.weight"} if head and not unties else set[str]()
    expected = skeleton.state_dict()
    if set(expected) - set(named) - set(own) - tied:
        return None
    if any(place.shape != expected[name].shape for name, place in named.items() if name not in own):
        return None  # packed already
    names = adaptable_names(skeleton)
    assert set(factors) == {name for name in names if is_target(name, files.config) and not is_inside(name, saved)}
    packed = packed_modules(skeleton, names) if section.quantization is not Quantization.NONE else frozenset[str]()
    return MergePlan(skeleton, section, files, seen, named, own, factors, packed, unties)


def named_sources(skeleton: Any, directory: Path) -> dict[str, TensorPlace]:
    """The base's tensors by their names in the model; those that the model does not have are left out."""
    expected, prefix = set(skeleton.state_dict()), f"{skeleton.base_model_prefix}."
    found = ((model_name(key, expected, prefix), place) for key, place in tensor_places(directory).items())
    return {name: place for name, place in found if name is not None}


def model_name(key: str, expected: set[str], prefix: str) -> str | None:
    """The model's name for a checkpoint's tensor; None for one that it has no use for."""
    modern = key.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
    names = (name for each in (key, modern) for name in (each, prefix + each, each.removeprefix(prefix)))
    return next((name for name in names if name in expected), None)


def tied_names(skeleton: Any) -> tuple[str | None, str | None]:
    """The paths of an output embedding that shares its weight with the input embedding, and of that one."""
    head = skeleton.get_output_embeddings()
    if head is None or not skeleton.config.get_text_config(decoder=True).tie_word_embeddings:
        return None, None
    paths = {id(module): name for name, module in skeleton.named_modules()}
    return paths[id(head)], paths[id(skeleton.get_input_embeddings())]


def packed_modules(skeleton: Any, linear: Iterable[str]) -> frozenset[str]:
    """The linear layers that are quantized when the model is loaded."""
    kept = unquantized(skeleton)
    return frozenset(name for name in linear if not is_inside(name, kept))
