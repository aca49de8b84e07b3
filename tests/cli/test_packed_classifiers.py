"""Runs of classifiers whose rows are computed without padding: the steps and scores of padded ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reflora_cli.model.precision import pick_device
from tests.cli.conftest import WEIGHTS, Reflora, killed, step_losses, train
from tests.two_processes import run_by_two

SETTINGS = ("train.log_every=1", "task.max_train_rows=96", "task.max_eval_rows=31", "train.micro_batch_size=16",
            "method.name=lora")  # fmt: skip
PACKED = "train.packing=true"


def assert_same(one: Path, other: Path) -> None:
    assert len(step_losses(one)) == 6
    assert step_losses(one) == pytest.approx(step_losses(other), abs=1e-5)
    expected = load_file(other / WEIGHTS)
    for name, tensor in load_file(one / WEIGHTS).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize(
    "more",
    [
        ("train.group_by_length=true", "train.gradient_checkpointing=true"),
        ("method.start=eva", "train.micro_batch_size=32"),
        ("model.quantization=nf4", "method.name=reflora"),
    ],
    ids=["grouped", "eva", "nf4"],
)
def test_packing_changes_no_step(more: tuple[str, ...], recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    found = [
        train(reflora, recipe, tmp_path / packing, *SETTINGS, *more, f"train.packing={packing}")
        for packing in ("true", "false")
    ]
    assert_same(*found)


def test_a_packed_run_is_scored_continued_and_merged_as_any(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    run = train(reflora, recipe, tmp_path / "run", *SETTINGS, PACKED, "train.checkpoint_every=2")
    results = json.loads((run / "results.json").read_text())
    assert reflora("eval", run, "--json").json["scores"] == results["scores"]
    part = killed(run, tmp_path / "part", 1)
    again = reflora("train", recipe, *SETTINGS, PACKED, "train.checkpoint_every=2", "--output", part, "--resume")
    assert again.status == 0, again.err
    assert (part / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    padded = tmp_path / "padded"
    shutil.copytree(run, padded)
    text = (padded / "recipe.yaml").read_text()
    assert "packing: true" in text
    (padded / "recipe.yaml").write_text(text.replace("packing: true", "packing: false"))
    for name in (run, padded):
        outcome = reflora("merge", name, "--output", tmp_path / f"{name.name}-merged")
        assert outcome.status == 0, outcome.err
    merged = [(tmp_path / f"{name}-merged" / "model.safetensors").read_bytes() for name in ("run", "padded")]
    assert merged[0] == merged[1]


def test_two_processes_pack_as_one(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    run_by_two("train", recipe, *SETTINGS, PACKED, "--output", tmp_path / "two")
    assert_same(train(reflora, recipe, tmp_path / "one", *SETTINGS, PACKED), tmp_path / "two")


def test_attention_is_as_asked_and_recorded(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    found = {}
    for asked in ("auto", "eager"):
        run = train(reflora, recipe, tmp_path / asked, *SETTINGS, PACKED, f"model.attention={asked}")
        found[asked] = json.loads((run / "results.json").read_text())
        assert reflora("eval", run, "--json").json["scores"] == found[asked]["scores"]
    assert {asked: results["attention"] for asked, results in found.items()} == {"auto": "sdpa", "eager": "eager"}
    assert found["auto"]["last_loss"] == pytest.approx(found["eager"]["last_loss"], abs=1e-5)


@pytest.mark.skipif(pick_device().type != "cpu", reason="a GPU may have it")
def test_attention_that_is_unknown_or_not_to_be_had_is_refused(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    for value, said in (("spda", "sdpa"), ("flash_attention_2", "needs a GPU")):
        outcome = reflora("train", recipe, f"model.attention={value}", "--output", tmp_path / "run")
        assert outcome.status == 2
        assert "model.attention" in outcome.err
        assert said in outcome.err
        assert not (tmp_path / "run").exists()
    run = train(reflora, recipe, tmp_path / "plain", *SETTINGS)
    outcome = reflora("eval", run, "model.attention=flash_attention_2")
    assert outcome.status == 2
    assert "needs a GPU" in outcome.err
