"""The passes that a start may see: a run's own rows in the order of training, without padding, prompts and dropout."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from reflora_cli.data.batches import micro_batches
from reflora_cli.model.precision import Compute
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.factors import passes
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare

COMPUTE = Compute(torch.device("cpu"), torch.float32)


def job_of(task: str, **train: Any) -> Job:
    sections: dict[str, Any] = {
        "model": {"name": "builtin:tiny-llama"},
        "method": {"name": "lora", "dropout": 0.5},
        "task": {"name": task, "max_length": 48, "max_train_rows": 20, "max_eval_rows": 4},
        "train": {"steps": 2, "batch_size": 8, "micro_batch_size": 3, **train},
        "eval": {"every": "never", "select": "last"},
    }
    recipe = Recipe.model_validate(sections)
    return prepare(recipe, COMPUTE, recipe.model)


def test_rows_come_in_micro_batches_as_in_training_and_go_on_in_the_next_epoch() -> None:
    job = job_of("builtin/entailment")
    expected = list[list[int]]()
    for step in range(4):
        lengths = sorted(len(job.rows.training[row].input_ids) for row in job.sampler.step_rows(step))
        expected += micro_batches(lengths, 0, 1, 3)
    own = list(itertools.islice(passes(job.objective, job.rows, job.sampler, 3), len(expected)))
    assert [one.places.sum(dim=1).tolist() for one in own] == expected
    assert [one.rows for one in own] == [3, 3, 2, 3, 3, 2, 3, 1, 3, 3, 2]


@pytest.mark.parametrize("packing", [False, True])
def test_places_of_answers_are_the_tokens_to_be_predicted(packing: bool) -> None:
    job = job_of("builtin/questions", packing=packing)
    rows = job.rows.training[:5]
    arguments = job.objective.arguments(rows)
    places = job.objective.places(arguments)
    assert places.shape == arguments["input_ids"].shape
    found = arguments["input_ids"][places].tolist()
    assert sorted(found) == sorted(arguments["targets"].tolist())
    assert len(found) == sum(row.weight for row in rows) < sum(len(row.input_ids) for row in rows)


def test_a_pass_is_in_evaluation_mode_and_leaves_the_mode_and_gradients_alone() -> None:
    job = job_of("builtin/entailment")
    modes = list[tuple[bool, bool]]()
    job.base.model.train()
    layer = next(iter(job.adapted.layers.values()))
    layer.register_forward_pre_hook(lambda own, _: modes.append((own.training, torch.is_grad_enabled())))
    next(passes(job.objective, job.rows, job.sampler, 3)).run()
    assert modes == [(False, False)]
    assert layer.training


def test_the_loss_is_that_of_training_with_dropout_from_the_seed_alone() -> None:
    """The same value each time, in training mode; generators, mode and gradients of the run stay as they were."""
    job = job_of("builtin/questions", gradient_checkpointing=True)
    job.base.model.eval()
    layer, modes = next(iter(job.adapted.layers.values())), list[bool]()
    layer.register_forward_pre_hook(lambda own, _: modes.append(own.training))
    before, values = torch.get_rng_state(), list[float]()
    for size in (3, 3):
        one = next(passes(job.objective, job.rows, job.sampler, size))
        with one.loss() as loss:
            assert loss.requires_grad
            values.append(loss.item())
            torch.randn(1)
    assert values[0] == values[1]
    assert values[0] > 0
    assert modes == [True, True]
    assert torch.equal(torch.get_rng_state(), before)
    assert not job.base.model.training
