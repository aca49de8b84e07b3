"""`reflora list` names everything there is, and finds it by words."""

from __future__ import annotations

import pytest

from reflora_cli.cli.export import Format
from reflora_cli.methods.presets import PRESETS
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.library import bundled_recipes
from reflora_cli.tasks.registry import TASKS
from tests.cli.conftest import Reflora

ALL = {
    "recipes": [*sorted(bundled_recipes())],
    "tasks": [*TASKS],
    "methods": [*PRESETS],
    "formats": [own.value for own in Format],
}


@pytest.mark.parametrize("kind", ALL)
def test_everything_is_listed(kind: str, reflora: Reflora) -> None:
    outcome = reflora("list", kind, "--json")
    assert outcome.status == 0, outcome.err
    assert [line["name"] for line in outcome.json[kind]] == ALL[kind]
    assert all(name in outcome.err for name in ALL[kind])


def test_without_a_kind_there_are_counts(reflora: Reflora) -> None:
    counts = reflora("list", "--json").json
    assert {kind: counts[kind] for kind in ALL} == {kind: len(names) for kind, names in ALL.items()}
    assert counts["models"] > 0


def test_a_recipe_is_told_as_it_loads(reflora: Reflora) -> None:
    lines = {line["name"]: line for line in reflora("list", "recipes", "--json").json["recipes"]}
    for name in ("glue/cola", "nlg/e2e", "commonsense/llama3-8b-stella"):
        recipe = load_recipe(name)
        expected = {"base": recipe.model.name, "task": recipe.task.name, "method": recipe.method.name}
        assert {key: lines[name][key] for key in expected} == expected
    assert lines["glue/cola"]["about"].startswith("CoLA exactly as published")
    assert all(line["about"] and line["base"] and line["task"] for line in lines.values())


def test_words_choose_lines_whatever_their_case(reflora: Reflora) -> None:
    found = reflora("list", "recipes", "GLUE", "roberta-base", "--json").json["recipes"]
    assert len(found) == 8
    assert all(line["name"].startswith("glue/roberta-base/") for line in found)
    nothing = reflora("list", "recipes", "zebra", "--json")
    assert (nothing.status, nothing.json) == (0, {"recipes": []})
    assert "none holds 'zebra'" in nothing.err


def test_models_say_who_uses_them(reflora: Reflora) -> None:
    lines = {line["name"]: line for line in reflora("list", "models", "--json").json["models"]}
    assert lines["builtin:tiny-llama"]["here"] == "built in"
    assert lines["FacebookAI/roberta-base"]["recipes"] == 8


def test_a_wrong_kind_is_refused_with_the_nearest(reflora: Reflora) -> None:
    outcome = reflora("list", "reciepes", "--json")
    assert outcome.status == 2
    (problem,) = outcome.json["error"]["problems"]
    assert problem["remedy"] == "did you mean 'recipes'?"
