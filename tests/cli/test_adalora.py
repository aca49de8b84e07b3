"""A course of a run, through the commands: scores and choices that survive kills, pruned files, accumulation, DDP."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.cli.conftest import WEIGHTS, Reflora, killed, records, step_losses, train
from tests.two_processes import run_by_two

SMALL: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {
        "name": "adalora",
        "rank": 4,
        "alpha": 16.0,
        "targets": ["q_proj", "v_proj", "down_proj"],
        "layer": {"kind": "adalora", "target_rank": 2, "initial_steps": 1, "final_steps": 3, "interval": 2},
    },
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 96, "max_eval_rows": 40},
    "train": {"steps": 8, "batch_size": 16, "learning_rate": 1e-2, "checkpoint_every": 2, "log_every": 1,
              "keep_checkpoints": 9},
    "eval": {"every": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def ada_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "adalora.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def ada_run(reflora: Reflora, ada_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    return train(reflora, ada_recipe, tmp_path_factory.mktemp("runs") / "adalora", "eval.select=last")


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_killed_run_is_continued_to_the_bit(
    kept: int, ada_run: Path, ada_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Before the first checkpoint, while triplets are given up, and after the choice is made."""
    part = killed(ada_run, tmp_path / "part", kept)
    train(reflora, ada_recipe, part, "eval.select=last", "--resume")
    assert (part / WEIGHTS).read_bytes() == (ada_run / WEIGHTS).read_bytes()
    assert (part / "adapter/adapter_config.json").read_bytes() == (ada_run / "adapter/adapter_config.json").read_bytes()
    assert step_losses(part) == step_losses(ada_run)


def test_the_budget_of_every_step_is_in_the_log(ada_run: Path) -> None:
    """From 4 to 2 triplets for each of 15 modules, by the paper's cubic course between steps 1 and 5."""
    expected = [60, *(math.floor(30 + 30 * (1 - (t - 1) / 4) ** 3) for t in (2, 3, 4)), 30, 30, 30, 30]
    assert [line["budget"] for line in records(ada_run, "step")] == expected


def test_the_file_has_what_is_left_and_nothing_else(ada_run: Path) -> None:
    config = json.loads((ada_run / "adapter/adapter_config.json").read_text())
    counts = [sum(own) for own in config["rank_pattern"].values()]
    assert sum(counts) == 2 * len(counts)
    assert len(set(counts)) > 1
    tensors = load_file(ada_run / WEIGHTS)
    values = [own for key, own in tensors.items() if key.endswith("lora_E")]
    assert sorted(map(len, values)) == sorted(counts)
    assert all(own.all() for own in values)


@pytest.mark.parametrize("more", [("eval.select=best",), ("model.quantization=nf4", "method.dropout=0.1")])
def test_the_kept_adapter_scores_merges_and_is_exported(
    more: tuple[str, ...], ada_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """The best one may be from before the choice is made: its own triplets are in the file."""
    run = train(reflora, ada_recipe, tmp_path / "run", *more)
    results = json.loads((run / "results.json").read_text())
    scored = reflora("eval", run, "--output", tmp_path / "scores", "--json")
    assert scored.status == 0, scored.err
    assert scored.json["scores"]["validation"]["accuracy"] == results["scores"]["validation"]["accuracy"]
    merged = reflora("merge", run, "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    exported = reflora("export", run, "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert exported.status == 0, exported.err
    assert exported.json["checked_by"].startswith("PEFT ")
    assert "AdaLoRA, arXiv 2303.10512" in (tmp_path / "peft" / "README.md").read_text()


def test_no_run_begins_from_it_and_no_rule_of_pairs_goes_with_it(
    ada_run: Path, ada_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    for setting, said in (
        (f"method.after={ada_run}", "triplets that its training removed are lost"),
        ("method.update=reflora", "is for pairs A, B, and method.layer=adalora trains none"),
        ("train.steps=4", "too short for method.layer=adalora"),
    ):
        outcome = reflora("train", ada_recipe, setting, "--output", tmp_path / "none")
        assert outcome.status == 2
        assert said in outcome.err


def test_micro_batches_and_processes_change_nothing(
    ada_run: Path, ada_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Scores are taken once for an optimizer step, and the penalty is counted once."""
    small, two, settings = tmp_path / "small", tmp_path / "two", ("eval.select=last", "train.micro_batch_size=4")
    train(reflora, ada_recipe, small, *settings)
    run_by_two("train", ada_recipe, *settings, "--output", two)
    own = load_file(ada_run / WEIGHTS)
    for other in (small, two):
        assert step_losses(other) == pytest.approx(step_losses(ada_run), abs=1e-5)
        found = load_file(other / WEIGHTS)
        for key, tensor in own.items():
            torch.testing.assert_close(found[key], tensor, atol=1e-4, rtol=0)
