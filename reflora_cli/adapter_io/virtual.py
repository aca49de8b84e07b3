"""Virtual tokens in PEFT's formats: peft_type PROMPT_TUNING and PREFIX_TUNING.

    prompt_embeddings               [k, width] of a prompt; [k, 2 L h d] of a prefix, with or without a projection
    base_model.<module>.<tensor>    modules saved whole; PEFT puts one wrapper less around the base than for layers

A prefix that a projection makes is written as its result, and goes on without the projection.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest, tensor_problem
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.layer import AdapterLayer
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


class PromptFormat:
    """The format of prompt tuning."""

    peft_type = PromptLayer.peft_type
    config = VirtualConfig
    expected: Mapping[str, str] = {
        "num_virtual_tokens": "a whole number, at least 1",
        "num_transformer_submodules": "1",
    }

    def part(self, key: str) -> tuple[str, str] | None:
        """Return None: no tensor is part of a layer."""
        return None

    def unsupported(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return nothing: what else PEFT knows of a prompt is how it began."""
        return {}

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Return the fields of a method that an adapter decides."""
        return {"layer": PromptLayer(tokens=files.config.virtual)}

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config says beside the common part."""
        tokens = virtual_tokens(adapted)
        assert isinstance(tokens, PromptTokens)
        return {**counted(tokens), "token_dim": tokens.embedding.shape[1], "prompt_tuning_init": "RANDOM"}

    def condensed(
        self, config: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Return both as they are."""
        return config, tensors

    def record(self, adapted: Adapted) -> dict[str, Any]:
        """Return nothing: the config says all."""
        return {}

    def maker(self, files: AdapterFiles, weights: Mapping[str, FrozenWeight]) -> Callable[[str, Parts], AdapterLayer]:
        """Return the function that makes no layer, since there is none to make."""
        return no_layer


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


def no_layer(name: str, tensors: Parts) -> AdapterLayer:
    """Raises TypeError: virtual tokens stand in the place of no module."""
    raise TypeError(f"{name}: virtual tokens have no layers")


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
