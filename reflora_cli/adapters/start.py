"""How factors start. The adapted model equals its base at step 0, whatever start is chosen, unless its layer says that
it begins otherwise, or the start `leaves_base`.

Most starts leave B at zero, or B A at least. Others take the part s B A out of the frozen weight, which the layer
remembers as its offset; on a quantized base those that correct its error come closer to the weight that was quantized
than the base is. Every module draws from a generator of its own, seeded by the run's seed and the module's name:
the same module starts the same whatever else is adapted, in whatever order, on whatever device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.corda import covariances, oriented_pair
from reflora_cli.adapters.eva import explained
from reflora_cli.adapters.gradients import weight_gradients
from reflora_cli.adapters.loftq import Approximation, loftq_split, lq_lora_split
from reflora_cli.adapters.lora_ga import gradient_pair
from reflora_cli.adapters.lora_one import one_step_pair
from reflora_cli.adapters.low_rank import LowRankLayer, uniform
from reflora_cli.adapters.milora import minor_pair
from reflora_cli.adapters.nystrom import sketched_rows
from reflora_cli.adapters.olora import leading_pair
from reflora_cli.adapters.orthogonal import orthogonal_pair
from reflora_cli.adapters.pissa import principal_pair
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.adapters.sight import NOTHING, Sight
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.starts import (
    CorDAStart,
    DefaultStart,
    EvaStart,
    GaussianStart,
    LoftQStart,
    LoRAGAStart,
    LoRAOneStart,
    LQLoRAStart,
    MiLoRAStart,
    NoraStart,
    OLoRAStart,
    OrthogonalStart,
    PissaStart,
    StartChoice,
)


def generator_for(seed: int, name: str) -> torch.Generator:
    """Return a CPU generator that depends on the run's seed and the module's name only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


Tell = Callable[[int, int], None]
"""What is called after each module, with the number of modules that are done and that of all."""


def say_nothing(done: int, total: int) -> None: ...


def start(adapted: Adapted, choice: StartChoice, seed: int, sight: Sight = NOTHING, tell: Tell = say_nothing) -> None:
    """Give what all layers train its first values, in place.

    It is called when the model is on its device, and not for a run that continues: `take_up` does that. sight: the
    training rows, for starts that look at them. A start that chooses ranks may leave layers with rank 0, which are
    for `remove_empty`.
    """
    layers = low_rank_layers(adapted)
    if choice.corrects_quantization:
        refuse_floats(layers, choice)
    seen = look(layers, choice, sight)
    for done, (name, layer) in enumerate(adapted.layers.items(), start=1):
        if name in layers:
            own = choice if name in seen or not choice.sees_data else DefaultStart()
            start_pair(layers[name], own, generator_for(seed, name), seen.get(name, torch.empty(0)))
        else:
            layer.start_itself(generator_for(seed, name))
        tell(done, len(adapted.layers))


def start_pair(layer: LowRankLayer, choice: StartChoice, draw: torch.Generator, found: Tensor) -> None:
    """Give A and B of one layer their first values, in place. found: what `look` has found, if it looks."""
    if isinstance(choice, LoftQStart | LQLoRAStart) and isinstance(layer.frozen, QuantizedWeight):
        correct_quantization(layer, layer.frozen, choice, draw)
    else:
        A, B = first_factors(layer, choice, draw, found)
        if choice.moves_base and not choice.corrects_quantization:
            layer.move(A, -B)
        layer.begin(A, B)
    if choice.leaves_base:
        layer.follow_start()


def look(layers: Mapping[str, LowRankLayer], choice: StartChoice, sight: Sight) -> dict[str, Tensor]:
    """Return what a start that looks at rows has found, by layer: A, C [in, in] or G [out, in]. A layer that it has
    not seen starts as by default.

    Raises InputError if there are no training rows.
    """
    match choice:
        case EvaStart():
            return explained(layers, choice, sight)
        case CorDAStart():
            return covariances(layers, choice, sight)
        case LoRAGAStart() | LoRAOneStart():
            return weight_gradients(layers, choice.kind, choice.rows, sight)
        case _:
            return {}


def first_factors(
    layer: LowRankLayer, choice: StartChoice, draw: torch.Generator, found: Tensor
) -> tuple[Tensor, Tensor]:
    """Return A [r, in] and B [out, r] of one layer at the start, float32. found: what `look` has found, if it looks."""
    rank, (out_features, in_features) = layer.rank, (layer.frozen.out_features, layer.frozen.in_features)
    match choice:
        case PissaStart(iterations=iterations):
            A, B = principal_pair(layer.frozen.dense(), rank, layer.scale, iterations, draw)
        case MiLoRAStart():
            A, B = minor_pair(layer.frozen.dense(), rank, layer.scale)
        case OLoRAStart():
            A, B = leading_pair(layer.frozen.dense(), rank)
        case OrthogonalStart():
            A, B = orthogonal_pair(rank, in_features, out_features, draw)
        case CorDAStart():
            A, B = oriented_pair(layer.frozen.dense(), found, rank, layer.scale, choice)
        case LoRAGAStart():
            A, B = gradient_pair(found.to(layer.frozen.device), rank, choice, draw)
        case LoRAOneStart():
            A, B = one_step_pair(found.to(layer.frozen.device), rank, choice, draw)
        case EvaStart():
            A, B = found, torch.zeros(out_features, found.shape[0])
        case GaussianStart():
            A, B = gaussian(rank, in_features, draw), torch.zeros(out_features, rank)
        case NoraStart(sigma=sigma):
            A = sketched_rows(layer.frozen.dense(), rank, layer.scale, sigma, draw)
            B = torch.zeros(out_features, rank)
        case DefaultStart() | LoftQStart() | LQLoRAStart():
            A, B = uniform(rank, in_features, draw), torch.zeros(out_features, rank)
    return A, B


def correct_quantization(
    layer: LowRankLayer, frozen: QuantizedWeight, choice: LoftQStart | LQLoRAStart, draw: torch.Generator
) -> None:
    """Start one layer so that codes and pair come close to the weight that was quantized. Raises InputError if the
    checkpoint does not hold that.
    """
    approximate = Approximation(layer.rank, layer.scale, choice.iterations, draw)
    match choice:
        case LoftQStart():
            pair, taken = loftq_split(frozen, approximate, choice.rounds)
        case LQLoRAStart():
            pair, taken = lq_lora_split(frozen, approximate, choice.rounds)
    if taken is not None:
        layer.move_early(taken.A, -taken.B)
    layer.begin(pair.A, pair.B)
    layer.follow_start()


def refuse_floats(layers: Mapping[str, LowRankLayer], choice: StartChoice) -> None:
    """Raises InputError for a start that corrects a quantization where no adapted module is quantized."""
    if not any(isinstance(layer.frozen, QuantizedWeight) for layer in layers.values()):
        what = f"start {choice} corrects the error of quantized weights, and no adapted module is quantized"
        raise InputError(Problem(what, "start", str(choice), remedy="quantize the base, or choose another start"))


def low_rank_layers(adapted: Adapted) -> dict[str, LowRankLayer]:
    """Return the layers that have a pair to start, by module name."""
    return {name: own for name, own in adapted.layers.items() if isinstance(own, LowRankLayer) and own.pairs(name)}


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
        early = fitting_pair(layer, tensors.get(f"{name}.early_A"), tensors.get(f"{name}.early_B"))
        if early and not layer.early_rank:
            layer.move_early(*early)
        if offset := fitting_pair(layer, tensors.get(f"{name}.offset_A"), tensors.get(f"{name}.offset_B")):
            known = layer.offset_rank - layer.early_rank  # an adapter from which the run began has brought its own
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
