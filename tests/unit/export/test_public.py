"""Nothing of where files lie is said in public."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.export.public import last_part, public_name, public_recipe
from reflora_cli.model.sources import Source
from reflora_cli.recipe.files import dump_recipe
from reflora_cli.recipe.sections import Recipe


def test_a_recipe_has_public_names() -> None:
    sections = {
        "model": {"name": "/home/me/base"},
        "method": {"name": "lora", "after": "~/runs/first"},
        "task": {"name": "glue/cola", "data": "../secret/data.csv"},
        "train": {"epochs": 1},
    }
    public = public_recipe(Recipe.model_validate(sections), Source("/home/me/base", "/home/me/base", None, True))
    assert (public.model.name, public.method.after, public.task.data) == ("base", "first", "data.csv")
    assert not [word for word in ("/home", "secret", "~") if word in dump_recipe(public)]
    hub = Recipe.model_validate({**sections, "task": {"name": "glue/cola"}})
    assert public_recipe(hub, Source("owner/base", "owner/base", None, False)).task.data == "hub"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Source("owner/base", "owner/base", None, False), "owner/base"),
        (Source("builtin:tiny-llama", "/site/reflora_cli/tiny", None, True), "builtin:tiny-llama"),
        (Source("pkg:made/model", "/site/made/model", None, True), "pkg:made/model"),
        (Source("models/base", "/home/me/models/base", None, True), "base"),
    ],
)
def test_a_base_is_called_by_what_others_know(source: Source, expected: str) -> None:
    assert public_name(source) == expected


def test_a_path_that_has_no_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert last_part(".") == tmp_path.name
    assert last_part("/") == "local"
