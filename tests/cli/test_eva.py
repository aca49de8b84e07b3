"""A start that looks at rows and chooses ranks: continued, scored, merged, exported and built upon by the commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.cli.conftest import WEIGHTS, Reflora, killed, step_losses, train
from tests.two_processes import run_by_two

EVA = ("method.name=eva", "method.rank=1", "task.max_train_rows=64", "task.max_eval_rows=16", "train.epochs=null",
       "train.steps=4", "train.batch_size=16", "train.checkpoint_every=2", "train.log_every=1")  # fmt: skip
QUANTIZED_DORA = ("method.layer=dora", "model.quantization=nf4", "method.update=reflora",
                  "method.refactor.warmup_steps=1", "method.start.rows=32")  # fmt: skip


@pytest.fixture(scope="module")
def eva_run(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("eva") / "run"
    outcome = reflora("train", recipe, *EVA, "--output", output)
    assert outcome.status == 0, outcome.err
    assert "before the first step, eva looks at up to 4,096 training rows" in outcome.err
    assert "  ranks" in outcome.err
    return output


def config_of(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "adapter/adapter_config.json").read_text()))


def same_adapters(one: Path, other: Path) -> bool:
    first, second = load_file(one / WEIGHTS), load_file(other / WEIGHTS)
    return first.keys() == second.keys() and all(torch.equal(own, second[key]) for key, own in first.items())


def test_modules_without_a_rank_are_left_out(eva_run: Path) -> None:
    factors = {key: own for key, own in load_file(eva_run / WEIGHTS).items() if key.endswith("lora_A.weight")}
    assert 0 < len(factors) < 35
    assert sum(own.shape[0] for own in factors.values()) == 35
    assert len(config_of(eva_run)["target_modules"]) == len(factors)


@pytest.mark.parametrize("more", [(), QUANTIZED_DORA], ids=["lora", "quantized dora under reflora"])
@pytest.mark.parametrize("kept", [0, 1], ids=["before the first checkpoint", "after it"])
def test_a_killed_run_continues_equal(
    more: tuple[str, ...], kept: int, reflora: Reflora, recipe: Path, eva_run: Path, tmp_path: Path
) -> None:
    whole = eva_run
    if more:
        whole = train(reflora, recipe, tmp_path / "whole", *EVA, *more)
    run = killed(whole, tmp_path / "run", kept)
    outcome = reflora("train", recipe, *EVA, *more, "--output", run, "--resume")
    assert outcome.status == 0, outcome.err
    assert ("eva looks at" in outcome.err) == (kept == 0)
    assert same_adapters(run, whole)
    assert step_losses(run) == step_losses(whole)
    assert config_of(run) == config_of(whole)


def test_it_is_scored_merged_and_exported(reflora: Reflora, eva_run: Path, tmp_path: Path) -> None:
    """Merging and exporting compare logits themselves, PEFT's too."""
    scored = reflora("eval", eva_run, "--json")
    assert scored.status == 0, scored.err
    results = json.loads((eva_run / "results.json").read_text())
    assert scored.json["scores"]["validation"] == results["scores"]["validation"]
    for command in (("merge", eva_run, "--output", tmp_path / "merged"),
                    ("export", eva_run, "--format", "peft", "--output", tmp_path / "peft")):  # fmt: skip
        outcome = reflora(*command)
        assert outcome.status == 0, outcome.err
    assert "Source: Paischer et al. 2024, EVA" in (tmp_path / "peft" / "README.md").read_text()


def test_another_run_begins_from_it(reflora: Reflora, recipe: Path, eva_run: Path, tmp_path: Path) -> None:
    """With the modules and ranks of the adapter; a start that chooses others is refused."""
    more = [own for own in EVA if not own.startswith(("method.", "task.max_eval"))]
    open_recipe = tmp_path / "open.yaml"
    text = recipe.read_text().partition("method:")
    rest = text[2].partition("model:")
    open_recipe.write_text(f"method: {{name: lora, after: {eva_run}}}\nmodel:{rest[2]}", encoding="utf-8")
    train(reflora, open_recipe, tmp_path / "next", *more)
    ranks = [{key: own.shape for key, own in load_file(run / WEIGHTS).items()} for run in (eva_run, tmp_path / "next")]
    assert ranks[0] == ranks[1]
    refused = reflora("train", open_recipe, *more, "method.name=eva", "--output", tmp_path / "other")
    assert refused.status == 2
    assert "method.start=eva would have no effect" in refused.err


def test_two_processes_start_as_one(recipe: Path, tmp_path: Path, eva_run: Path) -> None:
    """The first one looks, and all have its ranks and factors; the steps are those of one process to rounding."""
    run = tmp_path / "run"
    run_by_two("train", recipe, *EVA, "--output", run)
    assert step_losses(run) == pytest.approx(step_losses(eva_run), abs=1e-5)
    one, two = load_file(eva_run / WEIGHTS), load_file(run / WEIGHTS)
    assert {key: own.shape for key, own in one.items()} == {key: own.shape for key, own in two.items()}
