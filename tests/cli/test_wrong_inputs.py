"""Wrong inputs: exit status 2, one message that says what and where, no traceback, nothing written or lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from reflora_cli.model.sources import find_source
from tests.cli.conftest import RECIPE, Outcome, Reflora

ROWS = [{"premise": "a cup", "hypothesis": "it is small", "label": index % 2} for index in range(40)]


@dataclass(frozen=True)
class Place:
    """A scratch directory with a valid recipe, a copy of a finished run, and a way to run commands."""

    path: Path
    recipe: Path
    run: Path
    reflora: Reflora

    def train(self, *arguments: object) -> Outcome:
        return self.reflora("train", *(arguments or (self.recipe,)), "--output", self.path / "new")

    def with_recipe(self, text: str) -> Outcome:
        self.recipe.write_text(text, encoding="utf-8")
        return self.train()

    def with_data(self, name: str, text: str) -> Outcome:
        folder = self.path / "data"
        folder.mkdir()
        (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
        (folder / name).write_text(text, encoding="utf-8")
        return self.train(self.recipe, f"task.data={folder}")


def jsonl(*changes: dict[str, object]) -> str:
    """Good rows with some of the last ones replaced."""
    rows = [*ROWS[: len(ROWS) - len(changes)], *changes]
    return "".join(json.dumps(row) + "\n" for row in rows)


def corrupt_adapter(place: Place) -> Outcome:
    weights = place.run / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return place.reflora("eval", place.run)


def with_config(**changes: object) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        path = place.run / "adapter" / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))
        return place.reflora("eval", place.run)

    return act


def repeated_key(place: Place) -> Outcome:
    path = place.run / "adapter" / "adapter_config.json"
    path.write_text(path.read_text().replace("{\n", '{\n  "r": 64,\n  "r": 4,\n', 1))
    return place.reflora("eval", place.run)


def with_tensors_as(dtype: torch.dtype) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        path = place.run / "adapter" / "adapter_model.safetensors"
        save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path, {"format": "pt"})
        return place.reflora("eval", place.run)

    return act


def broken_tokenizer(place: Place) -> Outcome:
    base = shutil.copytree(find_source("builtin:tiny-llama", None).location, place.path / "base")
    (base / "tokenizer.json").write_text("[]")
    return place.train(place.recipe, f"model.name={base}")


def without_adapter(place: Place) -> Outcome:
    shutil.rmtree(place.run / "adapter")
    return place.reflora("merge", place.run)


def adapter_file(place: Place) -> Outcome:
    return place.reflora("eval", place.recipe, "--adapter", place.run / "adapter" / "adapter_config.json")


def changed_adapter(change: Callable[[dict[str, object]], None]) -> Callable[[Place], Outcome]:
    def act(place: Place) -> Outcome:
        weights = place.run / "adapter" / "adapter_model.safetensors"
        tensors: dict[str, object] = dict(load_file(weights))
        change(tensors)
        save_file(tensors, weights)
        return place.reflora("eval", place.run)

    return act


def drop_head(tensors: dict[str, object]) -> None:
    tensors.pop("base_model.model.score.weight")


def drop_factor(tensors: dict[str, object]) -> None:
    tensors.pop(next(key for key in tensors if key.endswith("lora_B.weight")))


def add_stranger(tensors: dict[str, object]) -> None:
    tensors["base_model.model.model.norm.weight"] = torch.ones(128)


def other_base(place: Place) -> Outcome:
    record = place.run / "adapter" / "reflora.json"
    value = json.loads(record.read_text())
    value["base"]["sha256"] = "0" * 64
    record.write_text(json.dumps(value))
    return place.reflora("merge", place.run, "--output", place.path / "new")


def pickled_base(place: Place) -> Outcome:
    base = place.path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "pytorch_model.bin").write_bytes(b"pickle")
    return place.train(place.recipe, f"model.name={base}")


def damaged_base(place: Place) -> Outcome:
    from reflora_cli.model.sources import find_source

    base = shutil.copytree(find_source("builtin:tiny-llama", None).location, place.path / "base")
    weights = base / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    return place.train(place.recipe, f"model.name={base}")


def occupied_output(place: Place) -> Outcome:
    (place.path / "new").mkdir()
    (place.path / "new" / "mine.txt").write_text("keep me")
    return place.train()


def damaged_checkpoint(place: Place) -> Outcome:
    (place.run / "results.json").unlink()
    for weights in place.run.glob("checkpoints/*/trained.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    return place.reflora("train", place.recipe, "--output", place.run, "--resume")


def changed_recipe(place: Place) -> Outcome:
    (place.run / "results.json").unlink()
    return place.reflora("train", place.recipe, "train.seed=9", "--output", place.run, "--resume")


GOOD = yaml.safe_dump(RECIPE)
CASES: dict[str, tuple[Callable[[Place], Outcome], tuple[str, ...]]] = {
    "unknown key": (lambda p: p.with_recipe(GOOD.replace("rank:", "rnak:")), ("rnak", "rank", "line")),
    "unknown section": (lambda p: p.with_recipe(GOOD + "\noptimiser: {}\n"), ("optimiser",)),
    "wrong type": (lambda p: p.train(p.recipe, "method.rank=eight"), ("method.rank", "eight")),
    "rank 0": (lambda p: p.train(p.recipe, "method.rank=0"), ("method.rank", "0")),
    "rank beyond the weight": (lambda p: p.train(p.recipe, "method.rank=4000"), ("method.rank", "4000")),
    "not finite": (lambda p: p.train(p.recipe, "train.learning_rate=.nan"), ("train.learning_rate",)),
    "unknown method": (lambda p: p.train(p.recipe, "method.name=reflroa"), ("reflroa", "reflora")),
    "refused combination": (lambda p: p.train(p.recipe, "method.refactor.warmup_steps=0"), ("B = 0",)),
    "warm-up longer than the run": (lambda p: p.train(p.recipe, "method.refactor.warmup_steps=20"), ("20 warm-up",)),
    "rate's warm-up longer than the run": (
        lambda p: p.train(p.recipe, "train.warmup_steps=1000"),
        ("train.warmup_steps", "1000 warm-up steps in a run of 20", "fewer than 20", "train longer"),
    ),
    "rate's warm-up as long as a planned run": (
        lambda p: p.reflora("train", p.recipe, "method.name=lora", "train.warmup_steps=20", "--dry-run"),
        ("train.warmup_steps", "20 warm-up steps in a run of 20"),
    ),
    "unmatched target": (lambda p: p.train(p.recipe, "method.targets=[q_prj]"), ("q_prj", "q_proj")),
    "broken regular expression": (lambda p: p.train(p.recipe, "method.targets=['(q']"), ("(q", "regular expression")),
    "unknown trainable module": (lambda p: p.train(p.recipe, "method.trainable_modules=[scroe]"), ("scroe", "score")),
    "no dropout to set": (lambda p: p.train(p.recipe, "model.classifier_dropout=0.1"), ("classifier_dropout",)),
    "length beyond the model": (lambda p: p.train(p.recipe, "task.max_length=100000"), ("task.max_length", "100000")),
    "length that leaves no text": (lambda p: p.train(p.recipe, "task.max_length=2"), ("task.max_length", "at least 3")),
    "unknown task": (lambda p: p.train(p.recipe, "task.name=builtin/entailmnet"), ("entailmnet", "entailment")),
    "malformed override": (lambda p: p.train(p.recipe, "method.rank"), ("method.rank", "=")),
    "missing recipe": (lambda p: p.train(p.path / "nowhere.yaml"), ("nowhere.yaml",)),
    "unreadable YAML": (lambda p: p.with_recipe("model: {name: x"), ("line",)),
    "recipe with code": (lambda p: p.with_recipe("model: !!python/object/apply:os.system [ls]"), ("python",)),
    "float16 on the CPU": (lambda p: p.train(p.recipe, "model.dtype=float16"), ("float16",)),
    "missing model": (lambda p: p.train(p.recipe, "model.name=./nowhere"), ("nowhere",)),
    "unknown builtin model": (lambda p: p.train(p.recipe, "model.name=builtin:tiny-lama"), ("tiny-lama", "tiny-llama")),
    "missing package": (lambda p: p.train(p.recipe, "model.name=pkg:no_such_package/model"), ("no_such_package",)),
    "hub out of reach": (lambda p: p.train(p.recipe, "model.name=someone/some-model"), ("someone/some-model",)),
    "pickled weights": (pickled_base, ("pytorch_model.bin", "safetensors")),
    "damaged weights": (damaged_base, ("model.name",)),
    "missing data": (lambda p: p.train(p.recipe, "task.data=./nowhere"), ("nowhere",)),
    "empty data": (lambda p: p.with_data("train.jsonl", ""), ("train.jsonl",)),
    "missing column": (
        lambda p: p.with_data("train.jsonl", '{"premis": "a", "hypothesis": "b", "label": 0}\n'),
        ("premise", "premis"),
    ),
    "label out of range": (
        lambda p: p.with_data("train.jsonl", jsonl({"premise": "a", "hypothesis": "b", "label": 7})),
        ("row 40", "7"),
    ),
    "row that is not text": (
        lambda p: p.with_data("train.jsonl", jsonl({"premise": None, "hypothesis": "b", "label": 0})),
        ("row 40", "premise"),
    ),
    "broken row": (lambda p: p.with_data("train.jsonl", jsonl() + '{"premise": \n'), ("row 41",)),
    "occupied output": (occupied_output, ("new", "--output")),
    "not a run": (lambda p: p.reflora("merge", p.path), ("recipe.yaml",)),
    "no such run": (lambda p: p.reflora("export", p.path / "nowhere", "--format", "peft"), ("nowhere",)),
    "adapter's file": (adapter_file, ("adapter_config.json", "the adapter is a file")),
    "adapter as a base": (
        lambda p: p.train(p.recipe, f"model.name={p.run / 'adapter'}"),
        ("config.json", "--adapter"),
    ),
    "run without adapter": (without_adapter, ("adapter_model.safetensors",)),
    "adapter of no scale": (with_config(lora_alpha=float("nan")), ("adapter_config.json, lora_alpha",)),
    "adapter beyond numbers": (with_config(lora_alpha=1e308), ("adapter_config.json, lora_alpha",)),
    "adapter that says its rank twice": (repeated_key, ("adapter_config.json, line 3", "'r'")),
    "adapter with a broken pattern": (with_config(target_modules="(q_proj"), ("target_modules", "'(q_proj'")),
    "adapter with an endless pattern": (
        with_config(target_modules="([a-z0-9._]|[a-z0-9._]{2}|[a-z0-9._]{3})+(?<=!)"),
        ("target_modules",),
    ),
    "adapter of whole numbers": (with_tensors_as(torch.int32), ("dtype", "torch.int32")),
    "adapter in eight bits": (with_tensors_as(torch.float8_e4m3fn), ("dtype", "torch.float8_e4m3fn")),
    "broken tokenizer": (broken_tokenizer, ("model.name",)),
    "a name that no file has": (lambda p: p.train(p.recipe, f"model.name={'x' * 300}"), ("model.name",)),
    "data under a name that no file has": (lambda p: p.train(p.recipe, f"task.data={'x' * 300}"), ("task.data",)),
    "a run under a name that no file has": (lambda p: p.reflora("eval", "x" * 300), ("xxx",)),
    "nobody's home": (lambda p: p.train(p.recipe, "model.name=~nosuchuser/x"), ("model.name",)),
    "an epoch beyond numbers": (lambda p: p.train(p.recipe, "train.epochs=1e308"), ("train.epochs", "1e+09")),
    "a rank beyond memory": (lambda p: p.train(p.recipe, "method.rank=1000000"), ("method.rank", "65536")),
    "corrupt adapter": (corrupt_adapter, ("adapter_model.safetensors", "damaged")),
    "adapter without its head": (changed_adapter(drop_head), ("score",)),
    "adapter without a factor": (changed_adapter(drop_factor), ("do not fit", "proj")),
    "adapter with a stranger": (changed_adapter(add_stranger), ("unexpected", "norm.weight")),
    "another base": (other_base, ("sha256",)),
    "untrained head": (lambda p: p.reflora("eval", p.recipe), ("score", "--adapter")),
    "unknown split": (lambda p: p.reflora("eval", p.run, "--split", "tset"), ("tset",)),
    "unknown format": (lambda p: p.reflora("export", p.run, "--format", "pickle"), ("pickle", "peft")),
    "resume nothing": (lambda p: p.reflora("train", p.recipe, "--output", p.path / "new", "--resume"), ("resume",)),
    "resume nowhere": (lambda p: p.reflora("train", p.recipe, "--resume"), ("--output",)),
    "resume with another recipe": (changed_recipe, ("seed: 9",)),
    "resume a damaged checkpoint": (damaged_checkpoint, ("step-", "damaged")),
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_clear_message(
    case: str, run: Path, recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Place(tmp_path, Path(shutil.copy(recipe, tmp_path / "mine.yaml")), run, reflora)
    act, expected = CASES[case]
    kept = {path.relative_to(tmp_path) for path in run.rglob("*")}

    outcome = act(place)

    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    assert not [word for word in expected if word not in outcome.err], outcome.err
    assert outcome.out == ""
    new = place.path / "new"
    assert not new.exists() or [path.name for path in new.iterdir()] == ["mine.txt"]
    assert not (run / "merged").exists()
    if case != "run without adapter":
        assert {path.relative_to(tmp_path) for path in run.rglob("*")} <= kept
    assert not list(tmp_path.rglob(".*.tmp*"))
