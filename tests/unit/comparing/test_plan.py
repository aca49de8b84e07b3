"""A plan as a user writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.comparing.command_line import plan_of
from reflora_cli.comparing.plan import Plan
from reflora_cli.comparing.settings import checked_settings
from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.library import bundled_plans

BEGIN = "recipe: quickstart\n"
TUNE = "tune:\n  train.learning_rate: [1e-3, 1e-2]\n  seeds: [9]\n"


def plan(tmp_path: Path, text: str) -> Plan:
    path = tmp_path / "my.yaml"
    path.write_text(text, encoding="utf-8")
    named = plan_of(str(path), [])
    checked_settings(named)
    return named.plan


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BEGIN + "gird: {method.name: [lora]}", ("unknown key 'gird'", "line 2, gird", "did you mean 'grid'")),
        (BEGIN + TUNE + "  bugdet: 2", ("unknown key 'bugdet'", "line 5", "did you mean 'budget'")),
        ("recipes: [{recipe: quickstart, sets: {}}]", ("unknown key 'sets'", "did you mean 'set'")),
        (BEGIN + "recipes: [quickstart]", ("either recipe or recipes", "line 1")),
        (BEGIN + "grid: {method.name: lora}", ("wrong value for grid.method.name", "'lora' (text)")),
        (BEGIN + "grid: {method.name: []}", ("a list of values is empty", "line 2")),
        (BEGIN + "grid: {rank: [1]}", ("'rank' is not a key of a recipe", "method.rank")),
        (BEGIN + "grid: {train.seed: [1]}", ("a plan sets seeds by the key `seeds`", "set seeds: 0..4")),
        (BEGIN + "seeds: many", ("wrong value for seeds", "'many' (text)", "0..2")),
        (BEGIN + "seeds: 3..1", ("the range 3..1 has no seeds",)),
        (BEGIN + "seeds: 0..2\n" + TUNE.replace("[9]", "[2]"), ("seed 2 is in both tune.seeds and seeds", "line 2")),
        (BEGIN + TUNE.replace("[9]", "[0]"), ("seed 0 would be used for both tuning and comparing", "set seeds")),
        (BEGIN + "tune: {seeds: [9]}", ("tune names no key of the recipe",)),
        (BEGIN + "tune: {train.learning_rate: [1.0]}", ("tune.seeds is missing",)),
        (BEGIN + TUNE + "  budget: 3", ("budget is 3 settings for each method, and the grid has 2", "line 5")),
        (BEGIN + TUNE + "set: {train.learning_rate: 1.0}", ("both tuned and set", "line 3", "line 5")),
        (BEGIN + "baseline: lro\ngrid: {method.name: [lora, dora]}", ("neither a setting", "did you mean 'lora'")),
        (BEGIN + "settings: [{name: a, method.rnk: 2}]", ("a: unknown key 'rnk'", "line 2", "did you mean 'rank'")),
        (BEGIN + "grid:\n  method.name: [full]\n  model.quantization: [nf4]", ("cannot be trained", "line 4")),
        (BEGIN + "grid: {method.rank: [-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -11, -12]}", ("and 2 more problems",)),
        ("recipe: quikstart", ("there is no such recipe", "did you mean 'quickstart'")),
        ("", ("wrong value for the plan",)),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, expected: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError) as refused:
        plan(tmp_path, text)
    assert [own for own in expected if own not in str(refused.value)] == []


def test_all_forms_of_seeds(tmp_path: Path) -> None:
    for text, expected in (("0..2", [0, 1, 2]), ("[4, 2]", [4, 2]), ("7", [7])):
        assert plan(tmp_path, f"{BEGIN}seeds: {text}").seeds == expected


@pytest.mark.parametrize("name", sorted(bundled_plans()))
def test_bundled_plans_are_valid(name: str) -> None:
    assert checked_settings(plan_of(name, []))
