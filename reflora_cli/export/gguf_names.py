"""Name and arrange a model's tensors as llama.cpp does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from reflora_cli.export.gguf_architectures import ARCHITECTURES, Architecture
from reflora_cli.export.gguf_config import key_heads, refuse_other_graphs
from reflora_cli.ground.errors import InputError, Problem


@dataclass(frozen=True)
class Layout:
    """One model's arrangement. heads: the numbers of heads of queries, and of keys and values."""

    architecture: Architecture
    blocks: int
    heads: int
    key_heads: int

    def name(self, tensor: str) -> str:
        """Return llama.cpp's name of a tensor: `blk.0.attn_q.weight` for `model.layers.0.self_attn.q_proj.weight`."""
        found = self.names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise InputError(Problem("llama.cpp's format cannot hold a tensor of the model", found=tensor))
        return str(found)

    @cached_property
    def names(self) -> Any:
        """llama.cpp's own table for this architecture."""
        import gguf

        kind = gguf.MODEL_ARCH[self.architecture.name.upper()]
        return gguf.get_tensor_name_map(kind, self.blocks)

    def heads_of(self, tensor: str) -> int | None:
        """Return the number of heads whose rows are permuted; None for a tensor that stays as it is.

        Where llama.cpp rotates neighbouring pairs of a head's rows, transformers rotates its two halves.
        """
        if not self.architecture.rotates_pairs:
            return None
        return {"q_proj": self.heads, "k_proj": self.key_heads}.get(module_of(tensor))

    def is_transposed(self, tensor: str) -> bool:
        """Whether transformers keeps a matrix [in, out]."""
        return tensor.endswith(".weight") and module_of(tensor) in self.architecture.transposed

    def offset(self, tensor: str) -> float:
        """Return what llama.cpp has more in each element of a tensor."""
        return 1.0 if self.architecture.raises_norms and tensor.endswith("norm.weight") else 0.0

    def shape(self, tensor: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a tensor in llama.cpp, in rows. shape: transformers'."""
        return tuple(reversed(shape)) if self.is_transposed(tensor) else shape

    def arranged(self, tensor: str, value: Tensor) -> Tensor:
        """Return the tensor as llama.cpp wants it. value: transformers'."""
        value = value.T.contiguous() if self.is_transposed(tensor) else value
        offset = self.offset(tensor)
        return value + offset if offset else self.permuted(tensor, value)

    def permuted(self, tensor: str, value: Tensor) -> Tensor:
        """Return values with the order of rows that llama.cpp has in a tensor. value: [rows, ...]."""
        heads = self.heads_of(tensor)
        if heads is None:
            return value
        halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
        return halves.swapaxes(1, 2).reshape(value.shape)

    def restored(self, tensor: str, value: Tensor) -> Tensor:
        """Return the tensor as transformers has it, the inverse of `arranged`."""
        if offset := self.offset(tensor):
            return value - offset
        heads = self.heads_of(tensor)
        if heads is not None:
            pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:])
            value = pairs.swapaxes(1, 2).reshape(value.shape)
        return value.T if self.is_transposed(tensor) else value


def module_of(tensor: str) -> str:
    """Return the last name of the module that a tensor belongs to."""
    return tensor.split(".")[-2] if "." in tensor else ""


def layout_of(config: Any, class_name: str) -> Layout:
    """Return the arrangement. Raises InputError for an architecture, or a setting of one, that is not converted
    here.
    """
    if class_name not in ARCHITECTURES:
        what = "reflora cannot convert this architecture to GGUF"
        remedy = "merge, and use llama.cpp's converter on the merged model: reflora merge RUN"
        raise InputError(Problem(what, found=class_name, expected=", ".join(ARCHITECTURES), remedy=remedy))
    architecture = ARCHITECTURES[class_name]
    refuse_other_graphs(config, architecture)
    return Layout(architecture, config.num_hidden_layers, config.num_attention_heads, key_heads(config))
