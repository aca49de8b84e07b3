"""Bottleneck adapters through the commands: trained by a word, continued, scored, exported, and never merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.cli.conftest import FEW, WEIGHTS, Reflora, killed, records, step_losses

SMALL: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "houlsby", "rank": 16, "dropout": 0.1},
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 128, "max_eval_rows": 40},
    "train": {"steps": 6, "batch_size": 16, "learning_rate": 3e-3, "checkpoint_every": 2, "log_every": 1},
    "eval": {"select": "last"},
}


@pytest.fixture(scope="module")
def houlsby_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "houlsby.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def houlsby(reflora: Reflora, houlsby_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    return begun(reflora, houlsby_recipe, tmp_path_factory.mktemp("runs") / "houlsby")


def begun(reflora: Reflora, recipe: Path, output: Path, *more: object) -> Path:
    outcome = reflora("train", recipe, *more, "--output", output)
    assert outcome.status == 0, outcome.err
    assert "reflora merge" not in outcome.err
    assert "--format peft" not in outcome.err
    return output


def test_a_word_makes_any_recipe_train_it(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """The recipe's targets are LoRA's and its rule RefLoRA's: both are replaced."""
    layered = tmp_path / "layered.yaml"
    layered.write_text(f"extends: {recipe}\nmethod: {{targets: [q_proj]}}\n")
    outcome = reflora("train", layered, "method.name=pfeiffer", "train.steps=3", "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "pfeiffer, rank 4\n" in outcome.err
    assert "feed-forward outputs (5)" in outcome.err
    assert records(tmp_path / "run", "health") == []  # there are no A and B


def test_every_part_of_every_bottleneck_is_trained_and_written(houlsby: Path) -> None:
    tensors = load_file(houlsby / WEIGHTS)
    own = {key: tensor for key, tensor in tensors.items() if "bottleneck" in key}
    assert len(own) == 2 * 5 * 4
    assert all(tensor.any() for tensor in own.values())
    assert len({tuple(tensor.shape) for key, tensor in own.items() if key.endswith("_down")}) == 1
    assert len(step_losses(houlsby)) == 6


def test_evaluation_repeats_the_scores_and_answers_come(houlsby: Path, reflora: Reflora) -> None:
    outcome = reflora("eval", houlsby, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"] == json.loads((houlsby / "results.json").read_text())["scores"]
    rows = [{"premise": "A cup is red.", "hypothesis": "It is blue."}]
    path = houlsby.parent / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = reflora("predict", houlsby, path, "--json")
    assert outcome.status == 0, outcome.err


@pytest.mark.parametrize("kept", [0, 1])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    kept: int, houlsby: Path, houlsby_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Before its first checkpoint, and from one; the dropout's masks are the same too."""
    run = killed(houlsby, tmp_path / "run", kept)
    assert [path.name for path in run.glob("checkpoints/step-*")] == (["step-000004"] if kept else [])
    begun(reflora, houlsby_recipe, run, "--resume")
    assert (run / WEIGHTS).read_bytes() == (houlsby / WEIGHTS).read_bytes()
    assert step_losses(run) == step_losses(houlsby)


@pytest.mark.parametrize("command", [("merge",), ("export", "--format", "safetensors"), ("export", "--format", "peft"),
                                     ("push", "someone/model", "--dry-run", "--what", "merged")],
                         ids=["merge", "safetensors", "peft", "push"])  # fmt: skip
def test_what_has_no_place_for_it_is_refused(command: tuple[str, ...], houlsby: Path, reflora: Reflora) -> None:
    outcome = reflora(command[0], houlsby, *command[1:])
    assert outcome.status == 2
    said = " ".join(outcome.err.split())
    if command[0] != "push":
        assert "use the run itself: reflora eval, predict or chat RUN" in said
        assert "PEFT has no bottleneck adapters" in said if "peft" in command else "is not linear" in said
    assert not (houlsby / "merged").exists()


def test_its_card_says_how_it_is_used(houlsby: Path) -> None:
    card = (houlsby / "adapter" / "README.md").read_text()
    assert "arXiv 1902.00751" in card
    assert "with houlsby, rank 16, seed" in card
    assert "It cannot be merged" in card
    assert "Merge it" not in card


def test_a_classifier_becomes_an_onnx_graph(houlsby: Path, reflora: Reflora, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    outcome = reflora("export", houlsby, "--format", "onnx", "--output", tmp_path / "onnx", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["largest_difference"] < 1e-3


def test_a_language_model_is_trained_and_asked(language_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """On a base in four bits, with packed rows."""
    more = ("method.name=pfeiffer", "model.quantization=nf4", "train.packing=true", *FEW)
    run = begun(reflora, language_recipe, tmp_path / "run", *more)
    outcome = reflora("eval", run, "--json")
    assert outcome.status == 0, outcome.err
    trained = json.loads((run / "results.json").read_text())["scores"]["validation"]
    assert outcome.json["tasks"]["validation"]["accuracy"] == trained["accuracy"]
    outcome = reflora("predict", run, "What is the shelf used for?", "--json")
    assert outcome.status == 0, outcome.err
    for form in ("gguf", "gguf-adapter"):
        outcome = reflora("export", run, "--format", form)
        assert outcome.status == 2
        assert "gguf is not installed" in outcome.err or "cannot be merged" in outcome.err


def test_a_run_may_begin_from_it(houlsby: Path, reflora: Reflora, tmp_path: Path) -> None:
    """It decides rank, function and places; another layer is refused."""
    open_recipe = tmp_path / "open.yaml"
    method = {"name": "houlsby", "after": str(houlsby)}
    open_recipe.write_text(yaml.safe_dump({**SMALL, "method": method, "eval": {"at_start": True, "select": "last"}}))
    run = begun(reflora, open_recipe, tmp_path / "second")
    before = json.loads((run / "results.json").read_text())["before"]
    assert before == json.loads((houlsby / "results.json").read_text())["scores"]
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["r"] == 16
    for name in ("dora", "pfeiffer"):
        outcome = reflora("train", open_recipe, f"method.name={name}", "--output", tmp_path / name)
        assert outcome.status == 2
        assert "method.layer differs" in outcome.err


def test_a_rule_for_pairs_is_refused(houlsby_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", houlsby_recipe, "method.update=reflora", "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "is for pairs A, B, and method.layer=houlsby trains none" in outcome.err
