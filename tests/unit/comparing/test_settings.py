"""What a plan compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from reflora_cli.comparing.command_line import NamedPlan, plan_of
from reflora_cli.comparing.planned import LONGEST, final_runs, tuning_runs
from reflora_cli.comparing.settings import checked_settings


def named(tmp_path: Path, **values: Any) -> NamedPlan:
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return plan_of(str(tmp_path / "my.yaml"), [])


def names(plan: NamedPlan) -> list[str]:
    return [setting.name for setting in checked_settings(plan)]


def test_settings_are_all_combinations_named_by_what_differs(tmp_path: Path) -> None:
    grid = {"method.name": ["lora", "dora"], "method.rank": [2, 4], "train.steps": [3]}
    plan = named(tmp_path, recipe="quickstart", grid=grid)
    assert names(plan) == ["lora, rank=2", "lora, rank=4", "dora, rank=2", "dora, rank=4"]
    (first, *_) = checked_settings(plan)
    recipe = first.recipe({}, 5)
    assert (recipe.method.name, recipe.method.rank, recipe.train.steps, recipe.train.seed) == ("lora", 2, 3, 5)


def test_every_recipe_has_its_own_settings(tmp_path: Path) -> None:
    recipes = ["quickstart", {"recipe": "glue/cola", "set": {"train.epochs": 7}}]
    plan = named(tmp_path, recipes=recipes, grid={"method.name": ["lora", "dora"]})
    assert names(plan) == ["quickstart, lora", "quickstart, dora", "cola, epochs=7, lora", "cola, epochs=7, dora"]
    assert [own.recipe({}, None).train.epochs for own in checked_settings(plan)] == [3, 3, 7, 7]


def test_equal_settings_are_one(tmp_path: Path) -> None:
    settings = [{"method.name": "lora"}, {"method.name": "lora", "method.rank": 8}, {"method.rank": 2}]
    assert names(named(tmp_path, recipe="quickstart", settings=settings)) == ["lora", "rank=2"]


def test_names_of_runs_are_unique_and_can_be_names_of_files(tmp_path: Path) -> None:
    settings = [{"name": "a/b", "method.rank": 2}, {"name": "a b", "method.rank": 3}, {"name": "x" * 200}]
    plan = named(tmp_path, recipe="quickstart", settings=settings, seeds=[1, 2])
    found = checked_settings(plan)
    runs = [run.name for run in final_runs(plan.plan, found, {own.name: {} for own in found})]
    assert runs[0] == "a-b-seed=1"
    assert len({name.lower() for name in runs}) == 6
    assert all(len(name) <= LONGEST + 9 and "/" not in name and " " not in name for name in runs)


def test_every_method_is_tuned_by_as_many_runs(tmp_path: Path) -> None:
    tune = {"train.learning_rate": [1e-4, 1e-3, 1e-2], "method.alpha": [4.0, 8.0], "budget": 4, "seeds": [7, 8]}
    plan = named(tmp_path, recipe="quickstart", grid={"method.name": ["lora", "dora", "reflora"]}, tune=tune, seeds=[1])
    runs = tuning_runs(plan.plan, checked_settings(plan))
    tried: dict[str, list[Any]] = {}
    for own in runs:
        values = (own.tuned["train.learning_rate"], own.tuned["method.alpha"], own.seed)
        tried.setdefault(own.setting, []).append(values)
    assert len(runs) == 3 * 4 * 2
    assert tried["lora"] == tried["dora"] == tried["reflora"]
    assert len({own[:2] for own in tried["lora"]}) == 4
    assert {own.seed for own in runs} == {7, 8}
