"""The bytes of what is trained, of its gradients, and of what the optimizer remembers of it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.layer import Adapter
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.factors.pair import Role
from reflora_cli.methods.settings import Optimizer
from reflora_cli.model.base import parameter_count
from reflora_cli.optim.partition import Partition
from reflora_cli.planning.meter import unique_bytes
from reflora_cli.planning.skeleton import Skeleton
from reflora_cli.planning.streamed import Streamed
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.prepare import make_optimizer

NAMES = {Role.FACTOR_A: "A", Role.FACTOR_B: "B"}
UNPAGED = {Optimizer.PAGED_ADAMW_8BIT: Optimizer.ADAMW_8BIT, Optimizer.PAGED_ADAMW: Optimizer.ADAMW}
"""An optimizer that needs a GPU, and the one that remembers as much without."""


@dataclass(frozen=True)
class State:
    """Bytes that stay during the whole run, and counts of parameters.

    weights: the frozen weights, by kind. adapter: the trained parameters. beside: what adapters hold beside them.
    gradients: those of all trained parameters, float32. optimizer: its moments and what the update rule remembers.
    step: what a step of the optimizer takes for itself. streamed: the weights that come and go, which are not among
    `weights`.
    """

    weights: dict[str, int]
    adapter: int
    beside: int
    gradients: int
    optimizer: int
    step: int
    trained: dict[str, int]
    total_parameters: int
    streamed: Streamed


def state_of(recipe: Recipe, made: Skeleton, remembered: int, device: str) -> State:
    """Return the bytes of an adapted base, under FakeTensorMode. remembered: what `optimizer_bytes` returned."""
    adapted = made.adapted
    parameters = list(adapted.parameters.values())
    trained = unique_bytes(parameters)
    largest = max(parameter.nbytes for parameter in parameters)
    return State(
        weights=weight_bytes(made),
        adapter=trained,
        beside=beside_bytes(recipe, adapted),
        gradients=trained,
        optimizer=remembered,
        # torch's documentation of AdamW: the loop over lists of tensors, its default on CUDA, takes about the size of
        # the parameters more than the plain one, which a CPU gets.
        step=trained if device == "cuda" else 2 * largest,
        trained=trained_by_kind(adapted),
        total_parameters=parameter_count(made.model),
        streamed=made.streamed,
    )


def weight_bytes(made: Skeleton) -> dict[str, int]:
    """Return the bytes of everything in the model that is neither trained nor an adapter's nor streamed, by kind."""
    model, own = made.model, {id(parameter) for parameter in made.adapted.parameters.values()}
    embeddings = {id(own) for own in (made.base.model.get_input_embeddings(), made.base.model.get_output_embeddings())}
    found: dict[str, list[object]] = {}
    seen = set(made.streamed.tensors)
    for _, module in model.named_modules():
        quantized = isinstance(module, QuantizedWeight)
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            if id(tensor) in own or id(tensor) in seen or isinstance(module, Adapter):
                continue
            seen.add(id(tensor))
            kind = "embeddings and output head" if id(module) in embeddings else "other weights"
            if quantized and name != "bias":
                kind = f"quantized linear layers ({module.kind})"
            elif isinstance(module, FrozenWeight):
                kind = "adapted linear layers"
            found.setdefault(kind, []).append(tensor)
    return {kind: unique_bytes(tensors) for kind, tensors in found.items()}


def beside_bytes(recipe: Recipe, adapted: Adapted) -> int:
    """Return the bytes that adapters hold beside what they train: constants, norms, and what a start takes out."""
    own = {id(parameter) for parameter in adapted.parameters.values()}
    tensors = [
        tensor
        for layer in adapted.layers.values()
        for module in layer.modules()
        if isinstance(module, Adapter)
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))
        if id(tensor) not in own
    ]
    method = recipe.method
    moved = [own for own in adapted.layers.values() if isinstance(own, LowRankLayer)] if method.start.moves_base else []
    return unique_bytes(tensors) + sum(layer.A.nbytes + layer.B.nbytes for layer in moved)


def trained_by_kind(adapted: Adapted) -> dict[str, int]:
    """Return the number of trained parameters by what they are: A, B, a layer's other tensors, heads, biases."""
    counts: Counter[str] = Counter()
    for layer in adapted.layers.values():
        for key, role in layer.roles().items():
            counts[NAMES.get(role, key)] += layer.get_parameter(key).numel()
    for name, parameter in adapted.in_place.items():
        counts[f"the base's own, {name.rpartition('.')[2]}"] += parameter.numel()
    for parameter in adapted.others.values():
        counts["modules trained whole"] += parameter.numel()
    return dict(counts)


def optimizer_bytes(recipe: Recipe, made: Skeleton, steps: int) -> int:
    """Return the bytes that the recipe's optimizer says it remembers: the moments of every parameter, and its rule's
    tensors. steps: those of the run.
    """
    train = recipe.train
    own = recipe.model_copy(
        update={"train": train.model_copy(update={"optimizer": UNPAGED.get(train.optimizer, train.optimizer)})}
    )
    return remembered_bytes(make_optimizer(own, made.base, made.adapted, steps))


def remembered_bytes(optimizer: Partition) -> int:
    """Return the bytes of an optimizer's state after its first step."""
    total = sum(own.nbytes for own in optimizer.rule.tensors().values())
    for member, parameter in optimizer.owned():
        total += sum(own.nbytes for own in member.fresh_state(parameter).values())
    return total
