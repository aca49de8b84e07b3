"""Runs whose last block leaves out what no head reads: steps of whole blocks, continued to the bit, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.architectures import ENCODERS
from tests.cli.conftest import WEIGHTS, Reflora, killed, step_losses, train
from tests.random_models import classifier

SETTINGS = ("train.log_every=1", "task.max_train_rows=96", "task.max_eval_rows=31", "method.name=lora",
            "train.checkpoint_every=2")  # fmt: skip
TRIMMED = "train.trim_last_block=true"


def saved(name: str, place: Path) -> Path:
    torch.manual_seed(0)
    classifier(ENCODERS[name]).base_model.save_pretrained(place)
    ENCODERS[name].tokenizer().save_pretrained(place)
    return place


def test_steps_are_those_of_whole_blocks(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    base = f"model.name={saved('bert', tmp_path / 'bert')}"
    whole = train(reflora, recipe, tmp_path / "whole", *SETTINGS, base)
    trimmed = train(reflora, recipe, tmp_path / "trimmed", *SETTINGS, base, TRIMMED)
    assert len(step_losses(whole)) == 6
    assert step_losses(trimmed) == pytest.approx(step_losses(whole), abs=1e-5)


def test_a_run_with_dropout_is_scored_and_continued_as_any(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    more = (*SETTINGS, TRIMMED, f"model.name={saved('bert-dropout', tmp_path / 'bert')}")
    run = train(reflora, recipe, tmp_path / "run", *more)
    scores = json.loads((run / "results.json").read_text())["scores"]
    assert reflora("eval", run, "--json").json["scores"] == scores
    part = killed(run, tmp_path / "part", 1)
    train(reflora, recipe, part, *more, "--resume")
    assert (part / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [((), ("train.trim_last_block", "llama")), (("train.packing=true",), ("train.packing", "first position"))],
    ids=["a decoder", "packed rows"],
)
def test_what_cannot_be_trimmed_is_refused(
    more: tuple[str, ...], words: tuple[str, ...], recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    outcome = reflora("train", recipe, *SETTINGS, TRIMMED, *more, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert all(word in outcome.err for word in words)
    assert not (tmp_path / "run").exists()
