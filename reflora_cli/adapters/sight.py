"""What a start may see before the first step: training rows on their way through the model.

Starts that look at data read the inputs of the adapted modules there, or the gradients of their weights
(`gradients.py`). All adapters are still zero, so these are the base's own activations and gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from reflora_cli.adapters.layer import flat
from reflora_cli.ground.errors import InputError, Problem


def no_loss() -> AbstractContextManager[Tensor]:
    """Raises InputError: nobody has said what is learned from the rows."""
    raise InputError(Problem("this start needs gradients of a loss, and the given passes compute none", "start"))


@dataclass(frozen=True)
class Pass:
    """A pass over some training rows.

    run: the function that makes it forward only, in evaluation mode and without gradients. places: bool [n, length],
    the places of the batch that count: neither padding, nor prompts if only answers are learned. rows: the number of
    training rows. loss: the function that makes it as training does; within the context that it returns, the rows'
    summed loss, a scalar, may be taken back.
    """

    run: Callable[[], object]
    places: Tensor
    rows: int
    loss: Callable[[], AbstractContextManager[Tensor]] = no_loss


@dataclass(frozen=True)
class Sight:
    """The training rows that a start may look at. passes: passes over them, as many as are asked for. tell: a function
    that shows the user a line. rows: how many rows there are, after which passes repeat them.
    """

    passes: Iterable[Pass]
    tell: Callable[[str], None]
    rows: float = math.inf


NOTHING = Sight((), lambda _: None)
"""The sight where there are no rows: starts that need some refuse it."""


def first_passes(sight: Sight, kind: str, most: int) -> Iterator[Pass]:
    """Yield passes over the first `most` rows, no row twice, and tell how far that is; kind: the start's.

    The last pass may go a few rows further. Raises InputError if there are no rows.
    """
    rows, enough = 0, min(most, sight.rows)
    sight.tell(f"before the first step, {kind} looks at {enough:,.0f} training rows")
    for number, one in enumerate(sight.passes, start=1):
        yield one
        rows += one.rows
        is_over = rows >= enough
        if is_over or number & (number - 1) == 0:  # after 1, 2, 4, 8 ... passes
            sight.tell(f"{kind}: {rows:,} rows")
        if is_over:
            return
    raise nothing_to_see(kind)


def nothing_to_see(kind: str) -> InputError:
    """Return the error of a start that finds no training rows. kind: the start's."""
    return InputError(Problem("this start needs training rows, and there are none", "start", kind))


@final
class Sharing:
    """Which layers are given one input: of those that are called one after the other with one tensor, the first leads.

    leader: that layer, by the name of each layer that was called.
    """

    def __init__(self) -> None:
        self.leader: dict[str, str] = {}
        self._last: tuple[Tensor, str] | None = None

    def leads(self, name: str, x: Tensor) -> bool:
        """Return whether the layer that is called with x is the first of those that share its input."""
        if name not in self.leader:
            shares = self._last is not None and self._last[0] is x
            self.leader[name] = self._last[1] if self._last is not None and shares else name
        self._last = x, self.leader[name]
        return self.leader[name] == name


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
