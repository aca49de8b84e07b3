"""A layer that decomposes its weight once and is a LoRA in files, through the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import WEIGHTS, Reflora, killed, train

SHORT = ("method.name=lora-xs", "method.rank=16", "train.steps=4", "train.checkpoint_every=2",
         "train.learning_rate=1e-2", "eval.select=last", "task.max_train_rows=64", "task.max_eval_rows=32")  # fmt: skip


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_a_run_is_continued_without_a_second_decomposition_and_its_file_is_a_lora(
    recipe: Path, reflora: Reflora, tmp_path: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (*SHORT, f"model.quantization={quantization}")
    run = train(reflora, recipe, tmp_path / "run", *more)
    for kept in (0, 1):
        part = killed(run, tmp_path / f"kept {kept}", kept)
        if kept:
            monkeypatch.setattr(torch.linalg, "svd", None)
        train(reflora, recipe, part, *more, "--resume")
        assert (part / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    monkeypatch.undo()
    config = json.loads((run / "adapter/adapter_config.json").read_text())
    assert (config["peft_type"], config["r"]) == ("LORA", 16)
    scored = reflora("eval", run, "--json")
    results = json.loads((run / "results.json").read_text())
    assert scored.json["scores"] == results["scores"]
    merged = reflora("merge", run, "--output", tmp_path / "merged", "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    exported = reflora("export", run, "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert exported.status == 0, exported.err
    assert "LoRA-XS, arXiv 2405.17604" in (tmp_path / "peft" / "README.md").read_text()
    after = (f"method.after={run}", "method.name=lora", "eval.at_start=true", "--output")
    second = reflora("train", recipe, *more, *after, tmp_path / "more")
    assert second.status == 0, second.err
    assert json.loads((tmp_path / "more" / "results.json").read_text())["before"] == results["scores"]
    refused = reflora("train", recipe, *more, f"method.after={run}", "--output", tmp_path / "none")
    assert refused.status == 2
    assert "to change the layer, merge the adapter" in refused.err
    own, other = load_file(run / WEIGHTS), load_file(tmp_path / "more" / WEIGHTS)
    assert all(not torch.equal(own[key], other[key]) for key in own)
