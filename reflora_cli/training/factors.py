"""Start the factors of a run, for which some starts look at its training rows first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.sight import Pass, Sight
from reflora_cli.adapters.start import Tell, empty_absent, start, take_up
from reflora_cli.data.batches import StepSampler, cut
from reflora_cli.model.precision import Compute, precision
from reflora_cli.objectives.invariance import evaluating
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.rows import Rows
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.together import of_first


def start_factors(adapted: Adapted, recipe: Recipe, compute: Compute, sight: Sight, tell: Tell) -> None:
    """Give the factors of a new run their first values, in place and equal in all processes.

    tell: see `start`. Where rows are looked at, the first process does that and the others take over its factors and
    what they were taken out of: on another device a pass may round differently, and then even ranks differ.
    """
    choice, seed = recipe.method.start, recipe.train.seed
    if compute.processes == 1 or not choice.sees_data:
        start(adapted, choice, seed, sight, tell)
        return

    def started() -> dict[str, Tensor]:
        start(adapted, choice, seed, sight, tell)
        return {name: tensor.detach().cpu() for name, tensor in of_layers(adapted).items()}

    shared = of_first(compute, started)
    if compute.rank != 0:
        take_up(adapted, shared)
        with torch.no_grad():
            for name, own in of_layers(adapted).items():
                own.copy_(shared[name])


def continue_factors(adapted: Adapted, recipe: Recipe, tensors: Mapping[str, Tensor]) -> None:
    """Give the layers the ranks that they have in a checkpoint, in place. tensors: the checkpoint's, by full name."""
    take_up(adapted, tensors)
    if recipe.method.start.chooses_ranks:
        empty_absent(adapted, tensors)


def of_layers(adapted: Adapted) -> dict[str, Tensor]:
    """Return what a checkpoint holds of the layers, by full name."""
    return {
        **{name: own for name, own in adapted.parameters.items() if name not in adapted.others},
        **adapted.constants,
    }


def sight_of(
    recipe: Recipe, objective: Objective[Any], rows: Rows, sampler: StepSampler, tell: Callable[[str], None]
) -> Sight:
    """Return the sight of a run's training rows: its own micro-batches, from the first step on."""
    return Sight(passes(objective, rows, sampler, recipe.train.micro_batch_size), tell, sampler.rows)


def passes(objective: Objective[Any], rows: Rows, sampler: StepSampler, size: int) -> Iterator[Pass]:
    """Yield passes over micro-batches of at most `size` rows, in the order of training by one process, without end."""
    for step in itertools.count():
        alike = sorted(sampler.step_rows(step), key=lambda row: len(rows.training[row].input_ids))
        for chunk in cut(alike, size, lambda row: objective.kind(rows.training[row])):
            arguments = objective.arguments([rows.training[index] for index in chunk])
            yield Pass(
                partial(forward, objective, arguments),
                objective.places(arguments),
                len(chunk),
                partial(learning, objective, arguments, sampler.seed),
            )


def forward(objective: Objective[Any], arguments: Mapping[str, Tensor]) -> None:
    """Run the model as training does, but without dropout and gradients."""
    compute = objective.compute
    with evaluating(objective.base.model), precision(compute.device, compute.dtype):
        objective.loss_module(**arguments)


@contextmanager
def learning(objective: Objective[Any], arguments: Mapping[str, Tensor], seed: int) -> Iterator[Tensor]:
    """Give the summed loss of a batch as training computes it. Dropout is drawn from the seed, and the generators of
    the run stay as they are.
    """
    compute, model = objective.compute, objective.base.model
    was_training, device = model.training, compute.device
    devices = [] if device.type == "cpu" else [device.index or 0]
    with torch.random.fork_rng(devices, device_type="cuda" if device.type == "cpu" else device.type):
        torch.manual_seed(seed)
        model.train()
        try:
            with torch.enable_grad(), precision(device, compute.dtype):
                loss = objective.loss_module(**arguments)
            yield loss
        finally:
            model.train(was_training)
