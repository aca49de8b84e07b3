"""`reflora combine --how search`: weights are found on a few rows, and used exactly."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reflora_cli.combining import search
from tests.cli.conftest import Reflora

WEIGHTS = "adapter_model.safetensors"


class RandomSearch:
    """Proposes weights at random, the two units first, and remembers what it is told."""

    def __init__(self, count: int, steps: int, seed: int) -> None:
        self.random, self.count, self.steps = random.Random(seed), count, steps
        self.told: list[tuple[list[float], float]] = []

    def ask(self) -> Any:
        units = [[float(place == number) for place in range(self.count)] for number in range(self.count)]
        drawn = [self.random.uniform(-1.5, 1.5) for _ in range(self.count)]
        return SimpleNamespace(value=units[len(self.told)] if len(self.told) < self.count else drawn)

    def tell(self, asked: Any, value: float) -> None:
        self.told.append((asked.value, value))


@pytest.fixture(scope="module")
def learned(recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that knows its 48 rows by heart."""
    output = tmp_path_factory.mktemp("runs") / "learned"
    few = ("method.name=lora", "task.max_train_rows=48", "task.max_eval_rows=8", "eval.at_start=false")
    long = ("train.epochs=null", "train.steps=50", "train.batch_size=24", "train.learning_rate=1e-2")
    outcome = reflora("train", recipe, *few, *long, "eval.select=last", "--output", output)
    assert outcome.status == 0, outcome.err
    return output


@pytest.fixture(scope="module")
def harmful(learned: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained adapter the wrong way round."""
    output = tmp_path_factory.mktemp("adapters") / "harmful"
    outcome = reflora("combine", learned, "--weights=-1", "--output", output)
    assert outcome.status == 0, outcome.err
    return output


def test_the_best_weights_of_those_tried_are_used(
    learned: Path, harmful: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    monkeypatch.setattr(search, "make_optimizer", lambda *given: made.append(RandomSearch(*given)) or made[-1])
    options = ("--how", "search", "--rows", 48, "--steps", 9, "--seed", 3, "--output", tmp_path / "found")
    outcome = reflora("combine", learned, harmful, *options, "--json")
    assert outcome.status == 0, outcome.err
    found, (optimizer,) = outcome.json, made
    assert (optimizer.count, optimizer.steps, len(optimizer.told)) == (2, 9, 9)
    best, least = min(optimizer.told, key=lambda own: own[1])
    assert found["weights"] == best
    assert found["search"]["after"] == least < found["search"]["before"]
    penalty = [value - 0.05 * sum(map(abs, own)) / 2 for own, value in optimizer.told]
    assert penalty[0] < penalty[1]
    own, whole = (load_file(at / WEIGHTS) for at in (learned / "adapter", tmp_path / "found"))
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    change = whole[key.format("B")].double() @ whole[key.format("A")].double()
    expected = (best[0] - best[1]) * 2.0 * own[key.format("B")].double() @ own[key.format("A")].double()
    torch.testing.assert_close(change, expected, atol=1e-6, rtol=1e-5)
    loss = reflora("eval", learned, "--adapter", tmp_path / "found", "--split", "train", "--limit", 48, "--json")
    assert loss.json["scores"]["train"]["loss"] == pytest.approx(least - 0.05 * sum(map(abs, best)) / 2, abs=1e-4)


def test_weights_no_better_than_none_are_an_error(
    harmful: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "make_optimizer", RandomSearch)
    options = ("--task", "builtin/entailment", "--rows", 48, "--steps", 1)
    outcome = reflora("combine", harmful, "--how", "search", *options, "--output", tmp_path / "found")
    assert outcome.status == 2, outcome.err
    assert "no weights were found whose loss is less" in outcome.err
    assert not (tmp_path / "found").exists()


def test_a_search_must_know_its_task(harmful: Path, reflora: Reflora, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(search, "make_optimizer", RandomSearch)
    outcome = reflora("combine", harmful, "--how", "search", "--output", tmp_path / "found")
    assert outcome.status == 2
    assert "needs a task whose rows" in outcome.err


def test_a_missing_library_is_named(learned: Path, reflora: Reflora, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "nevergrad", None)
    outcome = reflora("combine", learned, "--how", "search", "--output", tmp_path / "found")
    assert outcome.status == 2
    assert "pip install nevergrad" in outcome.err


def test_nevergrad_finds_the_helpful_adapter(learned: Path, harmful: Path, reflora: Reflora, tmp_path: Path) -> None:
    pytest.importorskip("nevergrad")
    outputs = [tmp_path / "one", tmp_path / "two"]
    found = []
    for output in outputs:
        options = ("--how", "search", "--rows", 48, "--steps", 20, "--seed", 1, "--output", output)
        outcome = reflora("combine", learned, harmful, *options, "--json")
        assert outcome.status == 0, outcome.err
        found.append(outcome.json["weights"])
    assert found[0] == found[1]
    assert found[0][0] > found[0][1]
