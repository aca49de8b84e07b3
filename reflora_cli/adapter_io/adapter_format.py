"""What must be known of one kind of adapter to write and read its files, and what most kinds answer alike."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from reflora_cli.adapter_io.checks import Parts
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight, TransposedWeight
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.methods.method import Method

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles


class AdapterFormat(ABC):
    """One kind of adapter in files.

    peft_type: PEFT's name for it. config: its settings. expected: what settings may be, in words, for messages. key:
    the pattern of a tensor's key, with the groups `module` and `part`; None for a kind without layers.
    """

    peft_type: ClassVar[str]
    config: ClassVar[type[PeftConfig]]
    expected: ClassVar[Mapping[str, str]]
    key: ClassVar[re.Pattern[str] | None] = None

    def part(self, key: str) -> tuple[str, str] | None:
        """Return the module and the part of its layer that a tensor's key names; None for any other key."""
        match = None if self.key is None else self.key.fullmatch(key)
        return None if match is None else (match["module"], match["part"])

    def unsupported(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings that change an adapter's output in a way that is not supported here, each with a remedy;
        an empty one where there is none.
        """
        return {}

    @abstractmethod
    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Return the fields of a method that an adapter decides, without its targets. Raises InputError for a kind from
        which no run begins.
        """

    @abstractmethod
    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config says beside the common part."""

    def condensed(
        self, config: dict[str, Any], tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
        """Return config and tensors, by the keys of the file, without what has no effect: the same adapter."""
        return config, tensors

    def record(self, adapted: Adapted) -> dict[str, Any]:
        """Return what our record says of the layers beside PEFT's config."""
        return {}

    def maker(self, files: AdapterFiles, weights: Mapping[str, FrozenWeight]) -> Callable[[str, Parts], AdapterLayer]:
        """Return the function that makes the layer of a module, given by its name, from its tensors.

        weights: the frozen weights of all modules of the adapter. What layers share is read once, here. Both raise
        InputError for tensors that do not fit.
        """
        return no_layer


def no_layer(name: str, tensors: Parts) -> AdapterLayer:
    """Raises TypeError: adapters of some kinds stand in the place of no module."""
    raise TypeError(f"{name}: adapters of this kind have no layers")


def has_transposed(adapted: Adapted) -> bool:
    """Whether a layer's weight is stored [in, out], which PEFT's configs call `fan_in_fan_out`."""
    return any(isinstance(layer.frozen, TransposedWeight) for layer in adapted.layers.values())
