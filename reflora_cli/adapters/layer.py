"""What an adapter is: what is trained in a model and what is stored of it, most often around a frozen weight.

The loop, the optimizer, the adapter's files and merging ask a layer the questions below and know nothing else of it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.factors.pair import Factored


class Adapter(nn.Module, Factored):
    """A module of a model that is trained beside its frozen weights.

    peft_type: the kind of adapter that its tensors make in PEFT's format.
    """

    peft_type: ClassVar[str]

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what an adapter's file holds of the module, by the key behind the module's path."""

    def shared(self) -> dict[str, Tensor]:
        """Return what an adapter's file holds once for the whole model, by the whole key."""
        return {}

    def start_itself(self, draw: torch.Generator) -> None:
        """Give what is trained its first values, in place, where no start can be chosen; nothing if it has them.

        draw: a generator on the CPU, of the run's seed and the module's name.
        """

    def before_graph(self) -> None:
        """Compute what a compiled forward pass that follows takes as given; nothing where there is nothing."""

    def after_graph(self) -> None:
        """Drop what `before_graph` has computed: other passes would take it as given too."""

    def constants(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold beside the trained parameters, by the name in the module."""
        return {}


class AdapterLayer(Adapter):
    """A frozen W [out, in] and what is trained around it, in the place of a linear layer."""

    def __init__(self, frozen: FrozenWeight) -> None:
        super().__init__()
        self.frozen = frozen

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return y [..., out] for x [..., in]."""

    @abstractmethod
    def merged(self) -> Tensor:
        """Return the dense weight [out, in], float32 and detached, that computes the same in evaluation mode."""

    def plain(self, dtype: torch.dtype) -> nn.Module:
        """Return an ordinary module that computes the same in evaluation mode, its weight cast to `dtype` once."""
        return self.frozen.thaw(self.merged().to(dtype))

    @property
    def changes_bias(self) -> bool:
        """Whether it also changes the bias, so that `merged` is not all that it does."""
        return False

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
