"""What a start may see before the first step: training rows on their way through the model.

Starts that look at data read the inputs of the adapted modules there. All adapters are still zero, so these are the
base's own activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from reflora_cli.adapters.layer import flat


@dataclass(frozen=True)
class Pass:
    """A forward pass over some training rows in evaluation mode, without gradients.

    run: the function that makes the pass. places: bool [n, length], the places of the batch that count: neither
    padding, nor prompts if only answers are learned. rows: the number of training rows.
    """

    run: Callable[[], object]
    places: Tensor
    rows: int


@dataclass(frozen=True)
class Sight:
    """The training rows that a start may look at. passes: passes over them, as many as are asked for. tell: a function
    that shows the user a line.
    """

    passes: Iterable[Pass]
    tell: Callable[[str], None]


NOTHING = Sight((), lambda _: None)
"""The sight where there are no rows: starts that need some refuse it."""


@torch.no_grad()
def watch(layers: Mapping[str, nn.Module], one: Pass, see: Callable[[str, Tensor], None]) -> None:
    """Make a pass, and call `see` with the name of each layer that is called and its inputs [m, in] that count.

    Layers that are called one after the other with one tensor are given one tensor. Of an input without the batch's
    places (pooled states, the tokens of an expert) all rows count, unless the layer has seen the batch's places before:
    then it is no data, as relative positions in DeBERTa.
    """
    placed = set[str]()
    last: list[Tensor] = []

    def watching(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0]
            has_places = x.shape[:-1] in (one.places.shape, one.places.flatten().shape)
            if not has_places and name in placed:
                return
            if has_places:
                placed.add(name)
            if not (last and last[0] is x):
                last[:] = [x, flat(x)[one.places.flatten()] if has_places else flat(x)]
            see(name, last[1])

        return look

    handles = [layer.register_forward_pre_hook(watching(name)) for name, layer in layers.items()]
    try:
        one.run()
    finally:
        for handle in handles:
            handle.remove()
