"""What a recipe is refused or warned for before the first step."""

from __future__ import annotations

from typing import Any

import pytest

from reflora_cli.data.batches import StepSampler
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.updates import UPDATES
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.job import cautions
from reflora_cli.training.prepare import total_steps

SAMPLER = StepSampler(rows=40, batch_size=4, seed=0)
WITH_WARMUP = [kind for kind, record in UPDATES.items() if "warmup_steps" in record.model_fields]


def recipe(method: dict[str, Any], **train: Any) -> Recipe:
    sections = {"model": {"name": "m"}, "task": {"name": "t"}, "train": {"steps": 5, **train}}
    return Recipe.model_validate({**sections, "method": method})


def test_rules_are_found() -> None:
    assert 0 < len(WITH_WARMUP) < len(UPDATES)


@pytest.mark.parametrize("kind", WITH_WARMUP)
def test_a_rule_that_would_begin_after_the_run_is_refused(kind: str) -> None:
    assert total_steps(recipe({"update": {"kind": kind, "warmup_steps": 4}}), SAMPLER) == 5
    with pytest.raises(InputError, match=f"the run ends before method.update={kind} first acts") as caught:
        total_steps(recipe({"update": {"kind": kind, "warmup_steps": 5}}), SAMPLER)
    (problem,) = caught.value.problems
    assert (problem.where, problem.found) == ("method.update.warmup_steps", "5 warm-up steps in a run of 5")


@pytest.mark.parametrize("kind", [kind for kind in UPDATES if kind not in WITH_WARMUP])
def test_a_rule_without_warm_up_is_not_refused_for_one(kind: str) -> None:
    layer = "stella" if UPDATES[kind].of_frames else "lora"
    short = recipe({"layer": layer, "update": kind, "refactor": {"warmup_steps": 1000}}, steps=1)
    assert total_steps(short, SAMPLER) == 1


@pytest.mark.parametrize(
    ("method", "weight_decay", "told"),
    [
        ({"start": "pissa"}, 0.0, []),
        (
            {"start": "pissa", "dropout": 0.1},
            0.0,
            ["method.dropout also applies to the part of the base's weights that method.start=pissa"],
        ),
        ({"start": "pissa"}, 0.01, ["train.weight_decay pulls the part of the base's weights that method.start=pissa"]),
        ({"start": "pissa", "after": "runs/first", "dropout": 0.1}, 0.01, ["method.start=pissa has no effect"]),
        ({"start": "gaussian", "after": "runs/first"}, 0.01, ["method.start=gaussian has no effect"]),
        ({"start": "default", "after": "runs/first", "dropout": 0.1}, 0.01, []),
    ],
)
def test_what_is_seldom_meant_with_a_start_is_told(
    method: dict[str, Any], weight_decay: float, told: list[str]
) -> None:
    found = cautions(recipe({"name": "lora", **method}, weight_decay=weight_decay))
    assert [words for words in found if not any(own in words for own in told)] == []
    assert len(found) == len(told)


@pytest.mark.parametrize(
    ("section", "is_told"),
    [
        ({"protocol": "choices", "cache": "static"}, True),
        ({"protocol": "choices", "cache": "static", "samples": 2}, False),
        ({"protocol": "choices"}, False),
        ({"cache": "static"}, False),
    ],
)
def test_a_cache_for_texts_that_nobody_writes_is_told(section: dict[str, Any], is_told: bool) -> None:
    whole = recipe({"name": "lora"}).model_dump(mode="json")
    found = cautions(Recipe.model_validate({**whole, "eval": section}))
    assert [own for own in found if "eval.cache=static has no effect" in own] == found
    assert bool(found) is is_told


def test_a_start_off_the_base_is_told() -> None:
    assert any("begins with a random change" in words for words in cautions(recipe({"name": "stella"})))
    assert not cautions(recipe({"name": "stella", "layer": {"s_initial": 0.0}}))
    assert not cautions(recipe({"name": "lora-xs"}))
    assert cautions(recipe({"name": "lora-xs", "layer": {"deviation": 0.1}}))


@pytest.mark.parametrize("kind", [kind for kind, own in UPDATES.items() if not own.of_frames and not own.holds_a])
def test_two_corrections_of_the_balance_are_told(kind: str) -> None:
    told = [
        words
        for words in cautions(recipe({"update": kind, "lr_ratio": 0.5}))
        if f"and method.update={kind} both" in words
    ]
    assert len(told) == UPDATES[kind].corrects_balance
    assert not cautions(recipe({"update": kind, "lr_ratio": 1.0}))
