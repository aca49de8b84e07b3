"""The data of a run are found where they were, where they went with it, or where the recipe says; what is lost is
named.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from reflora_cli.model.sources import Source
from reflora_cli.recipe.files import dump_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.places import moved_data, run_recipe, with_places


def recorded(run: RunDirectory, data: str, source: Source | None = None) -> dict[str, object]:
    """Write a run's recipe and its record, made in the working directory, and return the record."""
    sections = {"model": {"name": "m"}, "task": {"name": "glue/cola", "data": data}, "train": {"epochs": 1}}
    recipe = Recipe.model_validate(sections)
    record = with_places({"base": {"name": "m"}}, recipe, run, source or Source("owner/m", "owner/m", None, False))
    run.path.mkdir(parents=True)
    run.recipe.write_text(dump_recipe(recipe))
    run.environment.write_text(json.dumps(record))
    return record


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that holds data, and is the working directory."""
    (tmp_path / "tree" / "data").mkdir(parents=True)
    (tmp_path / "elsewhere" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


@pytest.mark.parametrize("data", ["data", "./data", "../tree/data", "{tree}/data"])
def test_places_are_tried_in_order(data: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(Path("runs") / "one")
    record = recorded(run, data.format(tree=tree))
    assert record["paths"] == {"task.data": {"path": str(tree / "data"), "from_run": "../../data"}}
    monkeypatch.chdir(tree.parent / "elsewhere")
    assert run_recipe(RunDirectory(tree / run.path)).task.data == str(tree / "data")
    moved = tree.rename(tree.parent / "deeper")
    run = RunDirectory(Path("../deeper/runs/one"))
    assert run_recipe(run).task.data == str(moved / "data")
    assert f"read from {moved / 'data'}" in moved_data(run_recipe(run), run)
    (moved / "data").rmdir()
    is_here = data in ("data", "./data")  # the other names lead nowhere from the working directory
    assert run_recipe(run).task.data == (data if is_here else str(tree / "data"))


def test_what_an_override_names_is_meant_here(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tree / "run")
    recorded(run, "data")
    monkeypatch.chdir(tree.parent / "elsewhere")
    assert run_recipe(run, ["task.data=data"]).task.data == "data"
    assert run_recipe(run, ["task={data: data}"]).task.data == "data"
    assert run_recipe(run, ["train.seed=1"]).task.data == str(tree / "data")
    assert moved_data(run_recipe(run), run) == ""


def test_a_link_to_data_leads_to_where_it_led(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link of the run's own directory is followed too: `..` of a linked directory is elsewhere."""
    (tree / "newest").symlink_to(tree.parent / "elsewhere" / "data")
    (tree / "disk" / "runs").mkdir(parents=True)
    (tree / "runs").symlink_to(tree / "disk" / "runs")
    record = recorded(RunDirectory(Path("runs") / "one"), "newest")
    assert record["paths"] == {
        "task.data": {"path": str(tree.parent / "elsewhere" / "data"), "from_run": "../../../../elsewhere/data"}
    }
    monkeypatch.chdir(tree.parent)
    moved = tree.parent.rename(tree.parent.with_name("moved"))
    run = RunDirectory(moved / "tree" / "disk" / "runs" / "one")
    assert run_recipe(run).task.data == str(moved / "elsewhere" / "data")


@pytest.mark.parametrize("record", ["", "[]", "{}", '{"paths": 3}', '{"paths": {"task.data": {"path": 3}}}', "{"])
def test_a_run_without_a_record_keeps_its_recipe(record: str, tree: Path) -> None:
    run = RunDirectory(tree / "run")
    recorded(run, "data")
    run.environment.write_text(record)
    assert run_recipe(run).task.data == "data"
    assert moved_data(run_recipe(run), run) == ""


def test_hub_data_and_models_of_the_package_have_no_place(tree: Path) -> None:
    record = recorded(RunDirectory(tree / "run"), "hub", Source("builtin:tiny-llama", str(tree), None, True))
    assert record == {"base": {"name": "m"}}
    record = recorded(RunDirectory(tree / "other"), "hub", Source("base", str(tree / "base"), None, True))
    assert record["base"] == {"name": "m", "from_run": "../base"}


def test_a_record_that_is_no_file_is_none(tree: Path) -> None:
    """To open a pipe would wait for a writer."""
    run = RunDirectory(tree / "run")
    recorded(run, "data")
    run.environment.unlink()
    os.mkfifo(run.environment)
    assert run_recipe(run).task.data == "data"
