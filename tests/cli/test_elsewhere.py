"""Runs that are taken to where their base and their data are not, or are others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from tests.cli.conftest import Reflora
from tests.cli.test_models import saved
from tests.models import make

RECIPE: dict[str, Any] = {
    "model": {"name": "some/base", "dtype": "float32"},
    "method": {"name": "lora", "rank": 2},
    "task": {"name": "glue/mnli", "data": "data", "max_length": 32},
    "train": {"steps": 2, "batch_size": 8, "checkpoint_every": 1},
    "eval": {"every": "never", "select": "last"},
}


@pytest.fixture(scope="module")
def original(small_glue: Path, tmp_path_factory: pytest.TempPathFactory, reflora: Reflora) -> Path:
    """A directory with some/base, data, a recipe that names both by relative paths, and a run."""
    place = tmp_path_factory.mktemp("original")
    model = make("bert")
    model.resize_token_embeddings(1500)
    saved(model, place / "some" / "base")
    shutil.copytree(small_glue / "mnli", place / "data")
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        outcome = reflora("train", "recipe.yaml", "--output", "run")
    assert outcome.status == 0, outcome.err
    return place


@pytest.fixture
def place(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and beside it a copy of the original one to be changed."""
    shutil.copytree(original, tmp_path / "original")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "original"


def forget(run: Path) -> None:
    """Make it a run as they were written before: without the places of base and data, what its outputs mean, and
    rows.
    """
    (run / "probe_rows.jsonl").unlink()
    for file in (run / "adapter" / "reflora.json", run / "environment.json"):
        said = json.loads(file.read_text())
        for key in ("path", "labels", "from_run"):
            del said["base"][key]
        said.pop("paths", None)
        file.write_text(json.dumps(said))


def other_model(directory: Path, base: Path) -> None:
    """Another model of the same kind."""
    shutil.copytree(base, directory)
    tensors = {key: tensor + 0.1 for key, tensor in load_file(base / "model.safetensors").items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def test_base_is_found_where_training_had_it(original: Path, place: Path, reflora: Reflora) -> None:
    """In `original` itself: from another directory, in which its name is another model. Rows are those of the run."""
    run, data = original / "run", f"task.data={original / 'data'}"
    other_model(Path("some/base"), original / "some" / "base")
    scores = reflora("eval", run, data, "--json")
    assert scores.status == 0, scores.err
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(original)
        assert reflora("eval", "run", "--json").json["scores"] == scores.json["scores"]
    merged = reflora("merge", run, "--output", "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["rows"] == 64
    base, found = (load_file(file) for file in (original / "some/base/model.safetensors", "merged/model.safetensors"))
    name = "bert.embeddings.word_embeddings.weight"
    assert base[name].equal(found[name])
    assert str(original) not in (Path("merged") / "README.md").read_text()
    for format in ("peft", "onnx"):
        assert reflora("export", run, "--format", format, "--output", format).status == 0


def test_lost_base_and_data_are_named_with_what_mends_it(place: Path, reflora: Reflora) -> None:
    """An older run, taken to another machine: nothing is where it was."""
    run = (place / "run").rename(place.parent / "run")
    forget(run)
    config = run / "adapter" / "adapter_config.json"
    lost = json.loads(config.read_text()) | {"base_model_name_or_path": "/nowhere/some/base"}
    config.write_text(json.dumps(lost))
    command = ("merge", run, "--output", "merged")
    outcome = reflora(*command)
    assert outcome.status == 2
    assert not [word for word in ("/nowhere/some/base", "model.name=PATH") if word not in outcome.err], outcome.err
    name, data = f"model.name={place / 'some/base'}", f"task.data={place / 'data'}"
    outcome = reflora(*command, name)
    assert (outcome.status, "task.data=PATH" in outcome.err) == (2, True)
    other_model(place / "other", place / "some" / "base")
    outcome = reflora(*command, f"model.name={place / 'other'}", data)
    assert (outcome.status, "sha256" in outcome.err) == (2, True)
    assert not Path("merged").exists()
    assert reflora(*command, name, data).status == 0
    assert reflora("export", run, name, "--format", "peft", "--output", "peft").status == 0
    assert reflora("eval", run, name, data).status == 0


def test_a_tree_with_run_base_and_data_moves_together(
    original: Path, place: Path, reflora: Reflora, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To another place, read from a third one in which the relative names are other data and another model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(original)
        expected = reflora("eval", "run", "--json").json["scores"]
        assert reflora("merge", "run", "--output", place.parent / "first").status == 0
    kept = original.rename(original.parent / "kept")
    try:
        (moved := place.parent / "deeper").mkdir()
        tree = place.rename(moved / "tree")
        other_model(Path("some/base"), tree / "some" / "base")
        shutil.copytree(tree / "data", "data")
        for file in Path("data").iterdir():
            file.write_text(file.read_text().replace("small", "large"))
        outcome = reflora("eval", tree / "run", "--json")
        assert outcome.status == 0, outcome.err
        assert outcome.json["scores"] == expected
        assert f"the data are read from {tree / 'data'}" in " ".join(outcome.err.split())
        assert reflora("merge", tree / "run", "--output", "merged").status == 0
        written = (Path("merged") / "model.safetensors").read_bytes()
        assert written == (place.parent / "first" / "model.safetensors").read_bytes()
        assert reflora("export", tree / "run", "--format", "peft", "--output", "peft").status == 0
        assert reflora("predict", tree / "run", "a cup", "a box").status == 2  # a row of this task has two columns
        resumed_equals_finished(tree, reflora)
        shutil.rmtree(tree / "data")
        shutil.rmtree("data")
        lost = reflora("eval", tree / "run")
        words = ("task.data", str(original / "data"), "task.data=PATH")
        assert (lost.status, [word for word in words if word not in lost.err]) == (2, []), lost.err
    finally:
        kept.rename(original)


def resumed_equals_finished(tree: Path, reflora: Reflora) -> None:
    """Lose the last step of the run, and make it again from a recipe with its relative paths."""
    run = tree / "run"
    expected = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-000002")
    outcome = reflora("train", tree / "recipe.yaml", "--output", run, "--resume")
    assert outcome.status == 0, outcome.err
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == expected
    assert yaml.safe_load((run / "recipe.yaml").read_text())["task"]["data"] == "data"


def test_data_are_those_of_training_in_another_directory(original: Path, place: Path, reflora: Reflora) -> None:
    """A relative name means other rows there, unless it is said that these are meant."""
    Path("data").mkdir()
    for file in (original / "data").iterdir():
        (Path("data") / file.name).write_text(file.read_text().replace('"label": 0', '"label": 1'))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(original)
        expected = reflora("eval", "run", "--json").json["scores"]
    assert reflora("eval", original / "run", "--json").json["scores"] == expected
    meant = reflora("eval", original / "run", "task.data=data", "--json")
    assert meant.status == 0, meant.err
    assert meant.json["scores"] != expected
    assert "training read them" not in meant.err


@pytest.mark.parametrize("name", ["nowhere", "some/nowhere", "glue/coal"])
def test_what_is_neither_run_nor_recipe_is_told_as_both(name: str, reflora: Reflora) -> None:
    outcome = reflora("eval", name)
    assert outcome.status == 2
    assert not [word for word in ("no such run or recipe", "recipe.yaml", "bundled recipe") if word not in outcome.err]


def test_a_directory_without_a_run_is_no_run(place: Path, reflora: Reflora) -> None:
    outcome = reflora("eval", place / "data")
    assert (outcome.status, "neither a run nor a recipe" in outcome.err) == (2, True), outcome.err


@pytest.mark.parametrize("override", ["train.seed=1", "model.dtype=bfloat16", "task.max_length=4", "nonsense"])
def test_nothing_but_places_can_be_said_of_a_finished_run(override: str, original: Path, reflora: Reflora) -> None:
    for command in (("merge",), ("export", "--format", "peft")):
        outcome = reflora(*command, original / "run", override)
        assert outcome.status == 2
        assert not [word for word in (override, "model.name=PATH", "task.data=PATH") if word not in outcome.err]


@pytest.mark.parametrize("older", [False, True])
def test_run_is_continued_on_its_base(older: bool, place: Path, reflora: Reflora) -> None:
    """From another directory, in which the base's name is another model; the base itself was moved there and back."""
    run = place / "run"
    expected = (run / "adapter" / "adapter_model.safetensors").read_bytes()
    settings = (f"task.data={place / 'data'}",)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    recipe["task"]["data"] = str(place / "data")
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = json.loads((run / "environment.json").read_text())
    environment["base"]["path"] = str(place / "some" / "base")
    (run / "environment.json").write_text(json.dumps(environment))
    if older:
        forget(run)
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints" / "step-000002")
    with pytest.MonkeyPatch.context() as patch:
        if older:  # knows no place: its name must lead there
            patch.chdir(place)
        else:
            other_model(Path("some/base"), place / "some" / "base")
        outcome = reflora("train", place / "recipe.yaml", *settings, "--output", run, "--resume")
    assert outcome.status == 0, outcome.err
    assert (run / "adapter" / "adapter_model.safetensors").read_bytes() == expected
    assert json.loads((run / "adapter" / "reflora.json").read_text())["base"]["name"] == "some/base"
    assert (run / "probe_rows.jsonl").is_file()


def test_rows_that_are_damaged_are_named(place: Path, reflora: Reflora) -> None:
    (place / "run" / "probe_rows.jsonl").write_text('{"texts": 3}\n')
    outcome = reflora("merge", place / "run", f"model.name={place / 'some/base'}", "--output", "merged")
    assert (outcome.status, "probe_rows.jsonl" in outcome.err, "remove the file" in outcome.err) == (2, True, True)
