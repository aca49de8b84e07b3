"""What tuning finds best."""

from __future__ import annotations

from typing import Any

import pytest

from reflora_cli.comparing.choosing import Choice, choose
from reflora_cli.comparing.directory import Result, State
from reflora_cli.comparing.plan import Tuning
from reflora_cli.comparing.planned import PlannedRun
from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.files import load_recipe

RATE = "train.learning_rate"
RECIPE = load_recipe("quickstart")


def result(rate: float, seed: int, scores: dict[str, float] | None, **more: Any) -> Result:
    run = PlannedRun("tuning", f"{rate}-{seed}", "lora", {RATE: rate}, seed, RECIPE)
    if scores is None:
        return Result(run, more.get("state", State.DIVERGED))
    return Result(run, State.DONE, next(iter(scores)), {"validation": scores})


def choice(table: dict[float, list[float | None]], metric: str = "accuracy", by: str = "validation") -> Choice:
    results = [
        result(rate, seed, None if score is None else {metric: score, "other": -score})
        for rate, scores in table.items()
        for seed, score in enumerate(scores)
    ]
    found = choose(Tuning(grid={RATE: list(table)}, seeds=[0, 1], by=by), "lora", results)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("table", "metric", "expected", "is_edge"),
    [
        ({1e-4: [0.5, 0.6], 1e-3: [0.7, 0.7], 1e-2: [0.9, 0.1]}, "accuracy", 1e-3, False),
        ({1e-4: [0.5, 0.6], 1e-3: [0.7, 0.7], 1e-2: [0.9, 0.8]}, "accuracy", 1e-2, True),
        ({1e-4: [0.5, 0.6], 1e-3: [0.7, 0.7], 1e-2: [0.9, 0.8]}, "loss", 1e-4, True),
        ({1e-4: [0.5, 0.6], 1e-3: [0.2, 0.3], 1e-2: [0.9, 0.8]}, "rmse", 1e-3, False),
        ({1e-2: [0.7, 0.5], 1e-3: [0.5, 0.7], 1e-4: [0.1, 0.1]}, "accuracy", 1e-3, False),
        ({1e-4: [0.5, 0.5], 1e-3: [0.6, 0.6], 1e-2: [0.9, None]}, "accuracy", 1e-3, False),
        ({1e-3: [0.5, 0.5]}, "accuracy", 1e-3, False),
    ],
)
def test_the_best_mean_wins_and_equals_go_to_the_smaller_rate(
    table: dict[float, list[float | None]], metric: str, expected: float, is_edge: bool
) -> None:
    found = choice(table, metric)
    assert found.chosen == {RATE: expected}
    assert list(found.at_edge) == ([RATE] if is_edge else [])
    assert any(f"{expected:g}" in own and RATE in own for own in found.warnings()) is is_edge


def test_nothing_is_chosen_where_all_diverged() -> None:
    found = choice({1e-3: [None, None], 1e-2: [0.9, None]})
    assert found.chosen is None
    assert "all values that were tried diverged" in found.warnings()[0]


def test_another_score_may_choose() -> None:
    table: dict[float, list[float | None]] = {1e-4: [0.5, 0.5], 1e-3: [0.6, 0.6]}
    assert choice(table, by="other").chosen == {RATE: 1e-4}
    with pytest.raises(InputError, match="no score of this name") as refused:
        choice(table, by="acuracy")
    assert "did you mean 'accuracy'" in str(refused.value)


@pytest.mark.parametrize("state", [State.FAILED, State.WAITING])
def test_no_choice_is_made_while_runs_are_missing(state: State) -> None:
    results = [result(1e-3, 0, {"accuracy": 0.5}), result(1e-2, 0, None, state=state)]
    assert choose(Tuning(grid={RATE: [1e-3, 1e-2]}, seeds=[0]), "lora", results) is None
