"""The front matter is what the hub reads: its own library finds in it what was put there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index
from yaml import safe_load

from reflora_cli.export.metadata import Published, front_matter
from reflora_cli.model.sources import Source, find_source
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of

HUB = Source("owner/base", "owner/base", None, is_local=False)


def published(task: str | list[str], source: Source = HUB, **scores: dict[str, float]) -> dict[str, Any]:
    sections = {"model": {"name": "m"}, "method": {"name": "dora"}, "task": {"name": task}, "train": {"epochs": 1}}
    recipe = Recipe.model_validate(sections)
    return dict(safe_load(front_matter(Published(recipe, task_of(recipe.task), source, scores), "peft")))


def test_a_classifier_on_hub_data() -> None:
    found = published("glue/cola", validation={"matthews": 0.5, "loss": float("nan"), "accuracy": 0.75})
    index = found.pop("model-index")
    assert found == {
        "base_model": "owner/base",
        "datasets": ["nyu-mll/glue"],
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "tags": ["lora", "dora", "reflora"],
    }
    (entry,) = index
    assert entry["results"] == [
        {
            "task": {"type": "text-classification"},
            "dataset": {"name": "glue/cola", "type": "nyu-mll/glue", "config": "cola", "split": "validation"},
            "metrics": [
                {"type": "matthews_correlation", "value": 0.5, "name": "matthews"},
                {"type": "accuracy", "value": 0.75, "name": "accuracy"},
            ],
        }
    ]
    read = ModelCardData(**found, **{"model-index": index})  # the hub's library reads the index back
    assert read.eval_results is not None
    assert [result.metric_value for result in read.eval_results] == [0.5, 0.75]
    assert eval_results_to_model_index(str(read.model_name), read.eval_results) == index


def test_a_mixture_has_the_data_and_scores_of_its_parts() -> None:
    found = published(["commonsense/boolq", "commonsense/piqa"], boolq={"accuracy": 0.5}, piqa={"accuracy": 0.25})
    assert found["pipeline_tag"] == "text-generation"
    assert len(found["datasets"]) == 2
    results = found["model-index"][0]["results"]
    assert [result["dataset"]["name"] for result in results] == ["commonsense/boolq", "commonsense/piqa"]
    assert [result["dataset"]["type"] for result in results] == found["datasets"]
    assert [result["metrics"][0]["value"] for result in results] == [0.5, 0.25]


def test_own_rows_name_no_data_set_and_no_scores_no_index() -> None:
    found = published("builtin/entailment")
    assert not {"datasets", "model-index", "language", "license"} & set(found)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"_name_or_path": "owner/origin"}, "owner/origin"),
        ({"_name_or_path": "/home/me/model"}, None),
        ({"_name_or_path": "./model"}, None),
        ({"_name_or_path": "checkpoints"}, None),
        ({"_name_or_path": 3}, None),
        ({}, None),
    ],
)
def test_a_local_base_is_named_by_its_origin_only(
    config: dict[str, Any], expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    source = find_source(str(tmp_path), None)
    assert published("glue/cola", source).get("base_model") == expected
    (tmp_path / "owner" / "origin").mkdir(parents=True)  # there the name is a directory
    assert published("glue/cola", source).get("base_model") is None
