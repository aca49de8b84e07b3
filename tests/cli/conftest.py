"""One small trained run, shared by all tests of the commands."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from reflora_cli.cli import app
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.commonsense import TASKS
from reflora_cli.tasks.registry import find_task

RECIPE: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "reflora", "rank": 4, "alpha": 8.0, "refactor": {"warmup_steps": 5}},
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 320, "max_eval_rows": 100},
    "train": {"epochs": 2, "batch_size": 32, "learning_rate": 3e-3, "checkpoint_every": 8},
    "eval": {"at_start": True},
}
LANGUAGE_RECIPE: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "reflora", "rank": 4, "alpha": 8.0, "refactor": {"warmup_steps": 3}},
    "task": {"name": "builtin/questions", "max_length": 48, "max_train_rows": 320, "max_eval_rows": 60},
    "train": {"epochs": 1, "batch_size": 32, "learning_rate": 3e-3},
    "eval": {"at_start": True, "protocol": "choices"},
}
FEW = ("task.max_train_rows=64", "task.max_eval_rows=16", "method.refactor.warmup_steps=1")
"""Overrides for a run of which it only matters that it trains."""

WEIGHTS = "adapter/adapter_model.safetensors"
"""Where a run has its trained tensors."""

THINGS = ("cup", "box", "hat", "pan", "key", "bag", "pot", "lid")
PLACES = ("kitchen", "cellar", "garden", "attic")


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        lines = self.out.splitlines()
        assert len(lines) == 1, "stdout must hold one JSON object and nothing else"
        return dict(json.loads(lines[0]))


Reflora = Callable[..., Outcome]


def records(run: Path, event: str) -> list[dict[str, Any]]:
    """The lines of a run's log that tell of one kind of event."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["event"] == event]


def step_losses(run: Path) -> list[float]:
    """The losses of the logged steps."""
    return [record["loss"] for record in records(run, "step")]


def train(reflora: Reflora, recipe: Path, output: Path, *more: object) -> Path:
    """The directory of a new run, or of one that was continued with `--resume`, which ended well."""
    outcome = reflora("train", recipe, *more, "--output", output)
    assert outcome.status == 0, outcome.err
    return output


class Runs(dict[str, Path]):
    """Finished runs by name, not to be changed; each is trained when it is first asked for."""

    def __init__(self, trained: Callable[[str], Path]) -> None:
        super().__init__()
        self.trained = trained

    def __missing__(self, name: str) -> Path:
        self[name] = self.trained(name)
        return self[name]


def killed(run: Path, part: Path, kept: int) -> Path:
    """A copy of a finished run as if it had been killed after so many of the checkpoints that it still has."""
    shutil.copytree(run, part)
    (part / "results.json").unlink()
    (part / "curves.png").unlink()
    shutil.rmtree(part / "adapter")
    checkpoints = sorted(part.glob("checkpoints/step-*"))
    assert len(checkpoints) > kept
    for place in checkpoints[kept:]:
        shutil.rmtree(place)
    return part


@pytest.fixture(scope="module", autouse=True)
def unrendered() -> Iterator[None]:
    """Leave out what half of the time of a small run would be spent on: figures are composed, and not rendered.

    The runs of `trained` and `answering` are begun before and have theirs; `tests/unit` looks at figures. Pictures of
    confusions are rendered: their module, imported here, has got the function already.
    """
    importlib.import_module("reflora_cli.training.confusion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reflora_cli.console.pictures.image", lambda *_: b"not rendered")
        yield


@pytest.fixture(scope="session")
def reflora() -> Reflora:
    """Run a command in this process."""

    def run(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests that change one take `run`."""
    output = tmp_path_factory.mktemp("runs") / "small"
    outcome = reflora("train", recipe, "--output", output)
    assert outcome.status == 0, outcome.err
    return output


@pytest.fixture(scope="session")
def language_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "questions.yaml"
    path.write_text(yaml.safe_dump(LANGUAGE_RECIPE), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def answering(reflora: Reflora, language_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a language model; not to be changed."""
    output = tmp_path_factory.mktemp("runs") / "questions"
    outcome = reflora("train", language_recipe, "--output", output)
    assert outcome.status == 0, outcome.err
    return output


@pytest.fixture(scope="session")
def small_glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory laid out like GLUE's files, with a few made-up rows for some tasks."""
    root = tmp_path_factory.mktemp("glue")
    for name in ("cola", "mrpc", "stsb", "mnli"):
        task = find_task(f"glue/{name}")
        assert isinstance(task, SequenceTask)
        for split in (task.train, *task.evaluation):
            rows = [
                {column: f"the {word} is small" for column, word in zip(task.text, ("cup", "box"), strict=False)}
                | {"label": index % len(task.label_names) if task.label_names else index % 6 * 0.9}
                for index in range(200 if split == task.train else 60)
            ]
            path = root / name / f"{split}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def small_commonsense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory laid out like LLM-Adapters' files, with a few made-up rows for each of the eight tasks."""
    root = tmp_path_factory.mktemp("commonsense")
    for task in TASKS:
        labels = task.pattern.split("|")[:4]
        choices = " ".join(f"{label}: the cup" for label in labels)
        for split, count in (("train", 12), ("test", 6)):
            rows = [
                {
                    "instruction": f"What is number {index}?\n\n{choices}\n\nAnswer format: {'/'.join(labels)}",
                    "input": "",
                    "output": f"the correct answer is {labels[index % len(labels)]}",
                    "answer": labels[index % len(labels)],
                }
                for index in range(count)
            ]
            path = root / task.short / f"{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(rows), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def small_nlg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Meanings: in training one text a row, in validation lists of references, in the test split rows to gather."""
    root = tmp_path_factory.mktemp("nlg")
    meanings = [f"thing : {thing} | place : {place}" for thing in THINGS for place in PLACES]
    texts = [
        (f"the {thing} is in the {place} .", f"in the {place} there is a {thing} .")
        for thing in THINGS
        for place in PLACES
    ]
    rows = list(zip(meanings, texts, strict=True))
    one = [{"meaning": meaning, "text": text} for meaning, both in rows for text in both]
    splits: dict[str, list[dict[str, Any]]] = {
        "train": one,
        "validation": [{"meaning": meaning, "references": both} for meaning, both in rows[::3]],
        "test": [row for index, row in enumerate(one) if index % 5],
    }
    for split, own in splits.items():
        (root / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own), encoding="utf-8")
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be spoilt."""
    return shutil.copytree(trained, tmp_path / "run")
