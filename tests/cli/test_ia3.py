"""A method without rank, alpha and dropout, whose merge changes biases too, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import WEIGHTS, Reflora, killed, train

SHORT = ("method.name=ia3", "train.steps=4", "train.checkpoint_every=2", "train.learning_rate=1e-2", "eval.select=last",
         "task.max_train_rows=64", "task.max_eval_rows=32")  # fmt: skip


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_word_makes_any_recipe_train_it(recipe: Path, reflora: Reflora, tmp_path: Path, quantization: str) -> None:
    """Killed and continued to the bit, scored, merged, exported to PEFT, and begun from."""
    more = (*SHORT, f"model.quantization={quantization}")
    run = tmp_path / "run"
    outcome = reflora("train", recipe, *more, "--output", run)
    assert outcome.status == 0, outcome.err
    assert "ia3\n" in outcome.err
    for kept in (1, 0):
        part = killed(run, tmp_path / f"kept {kept}", kept)
        train(reflora, recipe, part, *more, "--resume")
        assert (part / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    scored = reflora("eval", run, "--json")
    results = json.loads((run / "results.json").read_text())
    assert scored.json["scores"] == results["scores"]
    merged = reflora("merge", run, "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    exported = reflora("export", run, "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert exported.status == 0, exported.err
    assert "(IA)^3, arXiv 2205.05638" in (tmp_path / "peft" / "README.md").read_text()
    after = reflora("train", recipe, *more, f"method.after={run}", "eval.at_start=true", "--output", tmp_path / "more")
    assert after.status == 0, after.err
    second = json.loads((tmp_path / "more" / "results.json").read_text())
    assert second["before"] == results["scores"]
    own, other = load_file(run / WEIGHTS), load_file(tmp_path / "more" / WEIGHTS)
    assert own.keys() == other.keys()
    assert all(not torch.equal(own[key], other[key]) for key in own)
