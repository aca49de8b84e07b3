"""The layers of a weighted sum of adapters, whose weights can be changed in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.combining.changes import concatenated
from reflora_cli.combining.reading import Reader, check_shape
from reflora_cli.combining.ways import factors_of


@final
class Mixture:
    """A layer that computes W x + sum_k w_k B_k A_k x.

    layer: around W, with the factors of all adapters side by side. owners: the number of the adapter [R], for every
    rank of the layer.
    """

    def __init__(self, layer: LoRALinear, owners: Tensor) -> None:
        self.layer, self.owners, self.B = layer, owners, layer.B.detach().clone()

    def weigh(self, weights: Sequence[float]) -> None:
        """Take these weights, one for each adapter."""
        each = torch.tensor(weights, dtype=self.B.dtype, device=self.B.device)[self.owners]
        self.layer.B.data = self.B * each


def mixtures(readers: Sequence[Reader], model: nn.Module) -> dict[str, Mixture]:
    """Return the mixture of every module that an adapter changes, on the model's device. Raises InputError for changes
    without factors.
    """
    return {name: mixture(readers, model, name) for name in sorted({n for own in readers for n in own.source.layers})}


def mixture(readers: Sequence[Reader], model: nn.Module, name: str) -> Mixture:
    """Return the mixture of one module."""
    having = {number: own for number, own in enumerate(readers) if name in own.source.layers}
    changes = [own.change(name) for own in having.values()]
    check_shape(name, changes, [own.source for own in having.values()])
    factors = factors_of(changes)
    frozen, whole = freeze(model.get_submodule(name)), concatenated(factors)
    counts = torch.tensor([own.rank for own in factors])
    owners = torch.tensor(list(having)).repeat_interleave(counts).to(frozen.device)
    return Mixture(LoRALinear(frozen, (whole.A, whole.B), 1.0, 0.0), owners)


def layers_of(mixtures: Mapping[str, Mixture]) -> dict[str, LoRALinear]:
    """Return the layers to be put into the model, by name."""
    return {name: own.layer for name, own in mixtures.items()}
