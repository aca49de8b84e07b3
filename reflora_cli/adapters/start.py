"""How factors start. The adapted model equals its base at step 0, whatever start is chosen.

Most starts leave B at zero. Others take the part s B A out of the frozen weight, which the layer remembers as its
offset. Every module draws from a generator of its own, seeded by the run's seed and the module's name: the same module
starts the same whatever else is adapted, in whatever order, on whatever device.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.eva import explained
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.pissa import principal_pair
from reflora_cli.adapters.sight import NOTHING, Sight
from reflora_cli.methods.starts import DefaultStart, EvaStart, GaussianStart, PissaStart, StartChoice


def generator_for(seed: int, name: str) -> torch.Generator:
    """Return a CPU generator that depends on the run's seed and the module's name only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


Tell = Callable[[int, int], None]
"""What is called after each module, with the number of modules that are done and that of all."""


def say_nothing(done: int, total: int) -> None: ...


def start(adapted: Adapted, choice: StartChoice, seed: int, sight: Sight = NOTHING, tell: Tell = say_nothing) -> None:
    """Give the factors of all layers, and whatever else they draw, their first values, in place.

    It is called when the model is on its device, and not for a run that continues: `take_up` does that. sight: the
    training rows, for starts that look at them. A start that chooses ranks may leave layers with rank 0, which are
    for `remove_empty`.
    """
    for name, other in adapted.layers.items():
        other.draw(generator_for(seed, name))
    layers = low_rank_layers(adapted)
    bases = explained(layers, choice, sight) if isinstance(choice, EvaStart) else {}
    for done, (name, layer) in enumerate(layers.items(), start=1):
        A, B = first_factors(layer, choice, generator_for(seed, name), bases.get(name))
        if choice.moves_base:
            layer.move(A, -B)
        layer.begin(A, B)
        tell(done, len(layers))


def first_factors(
    layer: LowRankLayer, choice: StartChoice, draw: torch.Generator, found: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r] of one layer at the start, float32. found: A, if a look at rows found it."""
    rank, (out_features, in_features) = layer.rank, (layer.frozen.out_features, layer.frozen.in_features)
    match choice:
        case PissaStart(iterations=iterations):
            return principal_pair(layer.frozen.dense(), rank, layer.scale, iterations, draw)
        case GaussianStart():
            A = gaussian(rank, in_features, draw)
        case DefaultStart() | EvaStart():
            A = uniform(rank, in_features, draw) if found is None else found
    return A, torch.zeros(out_features, A.shape[0])


def low_rank_layers(adapted: Adapted) -> dict[str, LowRankLayer]:
    """Return the layers that have a pair to start, by module name."""
    return {name: layer for name, layer in adapted.layers.items() if isinstance(layer, LowRankLayer)}


def uniform(rank: int, in_features: int, generator: torch.Generator) -> Tensor:
    """Return A [r, in] ~ U(-1/sqrt(in), 1/sqrt(in)), as in PEFT and loralib (kaiming uniform with a = sqrt 5)."""
    bound = 1 / math.sqrt(in_features)
    return torch.empty(rank, in_features).uniform_(-bound, bound, generator=generator)


def gaussian(rank: int, in_features: int, generator: torch.Generator) -> Tensor:
    """Return A [r, in] ~ N(0, 1/r^2), as PEFT's "gaussian"."""
    return torch.empty(rank, in_features).normal_(std=1 / rank, generator=generator)


def take_up(adapted: Adapted, tensors: Mapping[str, Tensor]) -> None:
    """Give layers the ranks and offsets that they have in a checkpoint, in place; values are restored afterwards.

    tensors: `Adapted.parameters` and `Adapted.constants` as they were saved, by full name.
    """
    for name, layer in low_rank_layers(adapted).items():
        if pair := fitting_pair(layer, tensors.get(f"{name}.A"), tensors.get(f"{name}.B")):
            layer.begin(*pair)
        if offset := fitting_pair(layer, tensors.get(f"{name}.offset_A"), tensors.get(f"{name}.offset_B")):
            known = layer.offset_rank  # an adapter from which the run began has brought its own
            if offset[0].shape[0] > known:
                layer.move(offset[0][known:], offset[1][:, known:])


def empty_absent(adapted: Adapted, tensors: Mapping[str, Tensor]) -> None:
    """Give rank 0 to the layers of which a checkpoint has no factors, in place.

    tensors: as for `take_up`. Only a start that chooses ranks leaves modules without factors.
    """
    for name, layer in low_rank_layers(adapted).items():
        if not {f"{name}.A", f"{name}.B"} & tensors.keys():
            layer.begin(layer.A[:0], layer.B[:, :0])


def fitting_pair(layer: LowRankLayer, A: Tensor | None, B: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Return A [k, in] and B [out, k] if they are there and make an update of the layer's weight; None otherwise."""
    if A is None or B is None or A.ndim != 2 or B.ndim != 2:
        return None
    shapes = (layer.frozen.out_features, A.shape[0]), (A.shape[0], layer.frozen.in_features)
    return (A, B) if (tuple(B.shape), tuple(A.shape)) == shapes else None
