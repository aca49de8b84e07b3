"""Update rules that change factors or keep a state: continued, scored, merged, exported and built upon."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.cli.conftest import WEIGHTS, Reflora, killed, step_losses, train

SHORT = ("task.max_train_rows=64", "task.max_eval_rows=16", "train.epochs=null", "train.steps=4", "train.batch_size=16",
         "train.checkpoint_every=2", "train.log_every=1", "method.refactor.warmup_steps=1")  # fmt: skip
RULES = {
    "balanced": ("method.name=balanced", "Castin et al. 2026, BaLoRA, arXiv 2605.31484"),
    "balanced, moments transported": (
        "method.name=lora",
        "method.update={kind: balanced, moments: transport, interval: 2}",
        "Castin et al. 2026, BaLoRA, arXiv 2605.31484",
    ),
    "balanced dora on nf4": (
        "method.name=dora",
        "method.update=balanced",
        "model.quantization=nf4",
        "BaLoRA keeps A A^T equal to B^T B while they are trained",
    ),
    "lora-pro": ("method.name=lora-pro", "Wang et al. 2024, LoRA-Pro, arXiv 2407.18242"),
    "lora-pro, dense moments": (
        "method.name=lora",
        "method.update={kind: lora-pro, moments: dense}",
        "Wang et al. 2024, LoRA-Pro, arXiv 2407.18242",
    ),
    "preclora": (
        "method.name=preclora",
        "method.update={absolute_damping: 0.01, interval: 2}",
        "Zhang, Pilanci 2024, Riemannian preconditioned LoRA, arXiv 2402.02347",
    ),
    "nora+": ("method.name=nora+", "method.update.interval=2", "NoRA+ changes only the steps of training"),
    "nora on nf4": ("method.name=nora", "model.quantization=nf4", "Li et al. 2024, NoRA, arXiv 2410.18965"),
    "altlora dora on nf4": (
        "method.name=altlora",
        "method.layer=dora",
        "model.quantization=nf4",
        "AltLoRA stepped A and B in turn in training",
    ),
    "altlora+": ("method.name=altlora+", "Yu et al. 2025, AltLoRA, arXiv 2505.12455"),
}
"""Overrides, and what the model card says."""


@pytest.mark.parametrize("name", RULES)
def test_a_run_continues_equal_and_is_scored_merged_exported_and_built_upon(
    name: str, reflora: Reflora, recipe: Path, tmp_path: Path
) -> None:
    """Killed before the first checkpoint and after it. Merging and exporting compare logits themselves, PEFT's too."""
    *overrides, source = RULES[name]
    whole = train(reflora, recipe, tmp_path / "whole", *SHORT, *overrides)
    for kept in (0, 1):
        run = killed(whole, tmp_path / f"kept {kept}", kept)
        train(reflora, recipe, run, *SHORT, *overrides, "--resume")
        first, second = load_file(run / WEIGHTS), load_file(whole / WEIGHTS)
        assert first.keys() == second.keys()
        assert all(torch.equal(own, second[key]) for key, own in first.items())
        assert step_losses(run) == step_losses(whole)
    scored = reflora("eval", whole, "--json")
    assert (
        scored.json["scores"]["validation"] == json.loads((whole / "results.json").read_text())["scores"]["validation"]
    )
    for command in (("merge", whole, "--output", tmp_path / "merged"),
                    ("export", whole, "--format", "peft", "--output", tmp_path / "peft")):  # fmt: skip
        outcome = reflora(*command)
        assert outcome.status == 0, outcome.err
    assert source in (tmp_path / "peft" / "README.md").read_text()
    begun = begin_from(whole, recipe, tmp_path / "open.yaml")
    train(reflora, begun, tmp_path / "after", *SHORT, *overrides[1:2])


def begin_from(run: Path, recipe: Path, path: Path) -> Path:
    """A recipe that begins from the adapter of a run, under the rule of that run if it is a preset's."""
    method = yaml.safe_load((run / "recipe.yaml").read_text())["method"]
    values = yaml.safe_load(recipe.read_text())
    values["method"] = {"name": method["name"], "after": str(run)}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path
