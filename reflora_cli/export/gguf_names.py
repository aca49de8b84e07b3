"""Name and arrange a model's tensors as llama.cpp does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from reflora_cli.export.gguf_config import refuse_other_graphs
from reflora_cli.ground.errors import InputError, Problem

ARCHITECTURES = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}
"""transformers' class -> llama.cpp's architecture; it runs Mistral as a Llama."""


@dataclass(frozen=True)
class Layout:
    """One model's arrangement. architecture: llama.cpp's name. heads: the numbers of heads of queries, and of keys
    and values.
    """

    architecture: str
    blocks: int
    heads: int
    key_heads: int

    def name(self, tensor: str) -> str:
        """Return llama.cpp's name of a tensor: `blk.0.attn_q.weight` for `model.layers.0.self_attn.q_proj.weight`."""
        found = self.names.get_name(tensor, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise InputError(Problem("llama.cpp has no place for a tensor of the model", found=tensor))
        return str(found)

    @cached_property
    def names(self) -> Any:
        """llama.cpp's own table for this architecture."""
        import gguf

        kind = gguf.MODEL_ARCH.QWEN2 if self.architecture == "qwen2" else gguf.MODEL_ARCH.LLAMA
        return gguf.get_tensor_name_map(kind, self.blocks)

    def heads_of(self, tensor: str) -> int | None:
        """Return the number of heads whose rows are permuted; None for a tensor that stays as it is.

        llama.cpp's llama rotates neighbouring pairs of a head's rows, transformers rotates its two halves.
        """
        if self.architecture != "llama":
            return None
        return {"q_proj": self.heads, "k_proj": self.key_heads}.get(tensor.split(".")[-2] if "." in tensor else "")

    def arranged(self, tensor: str, value: Tensor) -> Tensor:
        """Return the tensor as llama.cpp wants it. value: [rows, ...]."""
        heads = self.heads_of(tensor)
        if heads is None:
            return value
        halves = value.reshape(heads, 2, value.shape[0] // heads // 2, *value.shape[1:])
        return halves.swapaxes(1, 2).reshape(value.shape)

    def restored(self, tensor: str, value: Tensor) -> Tensor:
        """Return the tensor as transformers has it, the inverse of `arranged`."""
        heads = self.heads_of(tensor)
        if heads is None:
            return value
        pairs = value.reshape(heads, value.shape[0] // heads // 2, 2, *value.shape[1:])
        return pairs.swapaxes(1, 2).reshape(value.shape)


def layout_of(config: Any, class_name: str) -> Layout:
    """Return the arrangement. Raises InputError for an architecture, or a setting of one, that is not converted
    here.
    """
    if class_name not in ARCHITECTURES:
        what = "this architecture is not converted to GGUF here"
        remedy = "merge, and use llama.cpp's own converter on the merged directory"
        raise InputError(Problem(what, found=class_name, expected=", ".join(ARCHITECTURES), remedy=remedy))
    refuse_other_graphs(config, ARCHITECTURES[class_name])
    return Layout(
        ARCHITECTURES[class_name], config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads
    )
