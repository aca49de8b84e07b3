"""What an adapter layer is: a frozen weight in the place of a module, what is trained around it, and what is stored.

The loop, the optimizer, the adapter's files and merging ask a layer the questions below and know nothing else of it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.factors.pair import Factored


class AdapterLayer(nn.Module, Factored):
    """A frozen W [out, in] and what is trained around it.

    peft_type: the kind of adapter that the layer's tensors make in PEFT's format.
    """

    peft_type: ClassVar[str]

    def __init__(self, frozen: FrozenWeight) -> None:
        super().__init__()
        self.frozen = frozen

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., out] for x [..., in]."""

    @abstractmethod
    def merged(self) -> Tensor:
        """Return the dense weight [out, in], float32 and detached, that computes the same in evaluation mode."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what an adapter's file holds of the layer, by the key behind the module's path."""

    def draw(self, generator: torch.Generator) -> None:
        """Give what begins at random its first values, in place; nothing for a layer of constants or of pairs, which
        `start.py` begins. generator: one on the CPU, of the run's seed and the module's name.
        """

    def shared(self) -> dict[str, Tensor]:
        """Return what an adapter's file holds once for all its layers, by the whole key."""
        return {}

    def constants(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold of the layer beside its trained parameters, by the name in the layer."""
        return {}

    def plain(self, dtype: torch.dtype) -> nn.Module:
        """Return an ordinary module that computes the same in evaluation mode, its weight cast to `dtype` once."""
        return self.frozen.thaw(self.merged().to(dtype))

    @property
    def weight(self) -> Tensor:
        """The base's weight as stored: some models ask their linear layers for its dtype or device."""
        return self.frozen.weight

    @property
    def bias(self) -> Tensor | None:
        return self.frozen.bias


def flat(x: Tensor) -> Tensor:
    """Return x [..., k] as [n, k], a view where it can be."""
    return x.reshape(-1, x.shape[-1])
