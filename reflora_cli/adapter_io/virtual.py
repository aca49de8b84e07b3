"""Virtual tokens in PEFT's formats: peft_type PROMPT_TUNING and PREFIX_TUNING.

    prompt_embeddings               [k, width] of a prompt; [k, 2 L h d] of a prefix, with or without a projection
    base_model.<module>.<tensor>    modules saved whole; PEFT puts one wrapper less around the base than for layers

A prefix that a projection makes is written as its result, and goes on without the projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import nn

from reflora_cli.adapter_io.adapter_format import AdapterFormat
from reflora_cli.adapter_io.checks import check_shapes, check_size, largest, tensor_problem
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.prefix import PrefixTokens
from reflora_cli.adapters.prompt import PromptTokens
from reflora_cli.adapters.virtual import FILE_KEY, VirtualTokens
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.methods.unmerged_layers import PrefixLayer, PromptLayer

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles


class VirtualConfig(PeftConfig):
    """What we read of the config of virtual tokens."""

    prefix: ClassVar[str] = "base_model."
    left_out: ClassVar[tuple[str, ...]] = ("target_modules", "bias")

    target_modules: list[str] = Field([], max_length=0)
    num_virtual_tokens: int = Field(ge=1)
    num_transformer_submodules: int | None = Field(1, ge=1, le=1)

    @property
    def shared(self) -> tuple[str, ...]:
        return (FILE_KEY,)

    @property
    def virtual(self) -> int:
        return self.num_virtual_tokens


class PromptFormat(AdapterFormat):
    """The format of prompt tuning."""

    peft_type = PromptLayer.peft_type
    config = VirtualConfig
    expected: ClassVar[Mapping[str, str]] = {
        "num_virtual_tokens": "a whole number, at least 1",
        "num_transformer_submodules": "1",
    }

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Return the fields of a method that an adapter decides."""
        return {"layer": PromptLayer(tokens=files.config.virtual)}

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config says beside the common part."""
        tokens = virtual_tokens(adapted)
        assert isinstance(tokens, PromptTokens)
        return {**counted(tokens), "token_dim": tokens.embedding.shape[1], "prompt_tuning_init": "RANDOM"}


class PrefixFormat(PromptFormat):
    """The format of prefix tuning."""

    peft_type = PrefixLayer.peft_type

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        return {"layer": PrefixLayer(tokens=files.config.virtual)}

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        tokens = virtual_tokens(adapted)
        assert isinstance(tokens, PrefixTokens)
        layers, heads, width = tokens.shape
        shape = {"token_dim": heads * width, "num_attention_heads": heads, "num_layers": layers}
        return {**counted(tokens), **shape, "prefix_projection": False, "encoder_hidden_size": None}


def counted(tokens: VirtualTokens) -> dict[str, Any]:
    """Return what configs of prompts and prefixes have in common."""
    return {"num_virtual_tokens": tokens.count, "num_transformer_submodules": 1}


def virtual_tokens(adapted: Adapted) -> VirtualTokens:
    """Return the virtual tokens of an adapted model, which has nothing else."""
    (tokens,) = adapted.layers.values()
    assert isinstance(tokens, VirtualTokens)
    return tokens


def made_virtual(model: nn.Module, files: AdapterFiles) -> VirtualTokens:
    """Return the virtual tokens that an adapter holds, for the model. Raises InputError for tensors that do not fit."""
    count = files.config.virtual
    tokens: VirtualTokens = (
        PrefixTokens(model, count, None)
        if files.config.peft_type == PrefixLayer.peft_type
        else PromptTokens(model, count, "normal")
    )
    if FILE_KEY not in files.tensors:
        raise InputError(tensor_problem(files.weights, "missing tensors", [FILE_KEY]))
    written = files.tensors[FILE_KEY]
    check_shapes(files.weights, "(virtual tokens)", {FILE_KEY: tuple(tokens.written().shape)}, {FILE_KEY: written})
    check_size(files.weights, "(virtual tokens)", largest(written))
    tokens.read(written)
    return tokens
