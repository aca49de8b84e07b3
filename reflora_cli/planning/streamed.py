"""What of a base is on the device where the weights of its blocks are streamed, and what is kept elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reflora_cli.adapters.block_homes import layout_of
from reflora_cli.adapters.block_stream import RESIDENT
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.settings import Streaming
from reflora_cli.model.base import Base
from reflora_cli.model.streaming import block_tensors, streamed_blocks
from reflora_cli.planning.devices import pinned


@dataclass(frozen=True)
class Streamed:
    """The weights that come and go. tensors: their identities. blocks: the bytes of each block at home."""

    way: Streaming
    tensors: frozenset[int]
    blocks: tuple[int, ...]

    @property
    def resident(self) -> int:
        """The memory on the device that blocks take, as `BlockStream` says."""
        return min(RESIDENT, len(self.blocks)) * max(self.blocks, default=0)

    @property
    def kept(self) -> int:
        """The bytes of all blocks at home."""
        return sum(self.blocks)

    def refuse_trained(self, parameters: Mapping[str, Tensor]) -> None:
        """Raises InputError if one of the trained parameters, by name, is streamed, as training does."""
        found = [name for name, own in parameters.items() if id(own) in self.tensors]
        if found:
            what, remedy = "a module with streamed weights cannot be trained whole", "model.streaming=none"
            raise InputError(Problem(what, "method.trainable_modules", found[0], remedy=remedy))

    def on_device(self, device: str, *, turned: bool) -> dict[str, int]:
        """Return the bytes on a device of this type, by kind. turned: whether weights are not used as their files have
        them; those that are stay mapped on a CPU, where all has been touched once.
        """
        found = {"streamed blocks, two at a time": self.resident}
        if device == "cpu" and self.way is Streaming.HOST:
            found["streamed blocks where they are kept"] = self.kept
            found["streamed blocks in mapped files"] = 0 if turned else self.kept
        return {kind: size for kind, size in found.items() if size}

    def in_host_memory(self, device: str) -> int:
        """Return the bytes that a GPU's host keeps for it: all blocks, or those that are on their way from files."""
        if device == "cpu":
            return 0
        if self.way is Streaming.DISK:
            return min(RESIDENT, len(self.blocks)) * pinned(max(self.blocks, default=0))
        return sum(map(pinned, self.blocks))


NOTHING = Streamed(Streaming.NONE, frozenset(), ())


def streamed_of(base: Base, way: Streaming) -> Streamed:
    """Return what of a base without adapters is streamed, quantized as it will be.

    Raises InputError for a model without blocks.
    """
    if way is Streaming.NONE:
        return NOTHING
    model: Any = base.model
    drawn = [f"{name}.{own}" for name in base.fresh for own, _ in model.get_submodule(name).named_parameters()]
    blocks = [block_tensors(block) for block in streamed_blocks(model, way, drawn)]
    identities = frozenset(id(tensor) for block in blocks for tensor in block)
    return Streamed(way, identities, tuple(layout_of(block).size for block in blocks))
