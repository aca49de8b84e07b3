"""Prompt and prefix tuning through the commands: trained by a word, continued, scored, asked, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from reflora_cli.cli import app
from tests.cli.conftest import WEIGHTS, Reflora, killed, step_losses
from tests.cli.test_models import saved
from tests.models import make
from tests.two_processes import run_by_two

KEY = "prompt_embeddings"
LAYERS: dict[str, dict[str, Any]] = {
    "prompt": {"kind": "prompt", "tokens": 6},
    "prefix": {"kind": "prefix", "tokens": 6, "projection": 16},
}


def small(name: str) -> dict[str, Any]:
    return {
        "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
        "method": {"name": name, "layer": LAYERS[name]},
        "task": {"name": "builtin/questions", "max_length": 48, "max_train_rows": 64, "max_eval_rows": 16},
        "train": {"steps": 6, "batch_size": 8, "learning_rate": 1e-2, "checkpoint_every": 2, "log_every": 1},
        "eval": {"select": "last", "protocol": "choices", "max_new_tokens": 8},
    }


def written(values: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["prompt", "prefix"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def virtual_recipe(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(small(name), tmp_path_factory.mktemp("recipe") / "virtual.yaml")


@pytest.fixture(scope="module")
def virtual_run(reflora: Reflora, virtual_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    return begun(reflora, virtual_recipe, tmp_path_factory.mktemp("runs") / "virtual")


def begun(reflora: Reflora, recipe: Path, output: Path, *more: object) -> Path:
    outcome = reflora("train", recipe, *more, "--output", output)
    assert outcome.status == 0, outcome.err
    assert "reflora merge" not in outcome.err
    return output


def adapter(run: Path) -> dict[str, Tensor]:
    return load_file(run / WEIGHTS)


def results(run: Path) -> Any:
    return json.loads((run / "results.json").read_text())


def test_a_word_makes_any_recipe_train_it(name: str, language_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """One with targets, a rank and settings of RefLoRA's, all of which it replaces."""
    layered = written(
        {"extends": str(language_recipe), "method": {"targets": ["q_proj"], "dropout": 0.1}}, tmp_path / "layered.yaml"
    )
    outcome = reflora("train", layered, f"method.name={name}", "train.steps=2", "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert f"{name}, 20 virtual tokens\n" in outcome.err
    assert len(adapter(tmp_path / "run")[KEY]) == 20


def test_what_is_trained_is_one_tensor_of_the_file(virtual_run: Path) -> None:
    tensors = adapter(virtual_run)
    assert list(tensors) == [KEY]
    assert len(tensors[KEY]) == 6
    losses = step_losses(virtual_run)
    assert len(losses) == 6
    assert min(losses[3:]) < losses[0]


@pytest.mark.parametrize("protocol", ["choices", "llm-adapters"])
def test_evaluation_repeats_itself_whatever_the_batch(protocol: str, virtual_run: Path, reflora: Reflora) -> None:
    """The caches of both protocols hold the virtual tokens."""
    found = []
    for size in (1, 16):
        outcome = reflora("eval", virtual_run, f"eval.batch_size={size}", "--protocol", protocol, "--json")
        assert outcome.status == 0, outcome.err
        found.append(outcome.json["tasks"]["validation"])
    assert found[0]["accuracy"] == found[1]["accuracy"]
    if protocol == "choices":
        assert found[0]["accuracy"] == results(virtual_run)["scores"]["validation"]["accuracy"]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    kept: int, virtual_run: Path, virtual_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    run = killed(virtual_run, tmp_path / "run", kept)
    assert [path.name for path in run.glob("checkpoints/step-*")] == (["step-000004"] if kept else [])
    begun(reflora, virtual_recipe, run, "--resume")
    assert (run / WEIGHTS).read_bytes() == (virtual_run / WEIGHTS).read_bytes()
    assert step_losses(run) == step_losses(virtual_run)


def test_it_is_asked_and_spoken_to(virtual_run: Path, reflora: Reflora) -> None:
    answers = []
    for size in (1, 8):
        outcome = reflora(
            "predict", virtual_run, "What is the shelf used for?", "What is a cup?", "--batch-size", size, "--json"
        )
        assert outcome.status == 0, outcome.err
        answers.append(outcome.out)
    assert answers[0] == answers[1]
    spoken = CliRunner().invoke(app, ["chat", str(virtual_run)], input=b"What is a cup?\n/exit\n")
    assert spoken.exit_code == 0, spoken.stderr
    assert spoken.stdout.strip()


def test_an_export_is_what_peft_computes_with(name: str, virtual_run: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("export", virtual_run, "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["checked_by"].startswith("PEFT ")
    assert adapter(virtual_run)[KEY].equal(load_file(tmp_path / "peft" / "adapter_model.safetensors")[KEY])
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["num_virtual_tokens"]) == (f"{name.upper()}_TUNING", 6)
    card = (tmp_path / "peft" / "README.md").read_text()
    assert {"prompt": "arXiv 2104.08691", "prefix": "arXiv 2101.00190"}[name] in card
    assert "vLLM cannot serve the adapter itself" in card
    assert "reflora merge" not in card


@pytest.mark.parametrize("form", ["merge", "safetensors"])
def test_it_is_not_merged(form: str, virtual_run: Path, reflora: Reflora) -> None:
    outcome = reflora(*(["merge", virtual_run] if form == "merge" else ["export", virtual_run, "--format", form]))
    assert outcome.status == 2
    said = " ".join(outcome.err.split())
    assert "virtual tokens are put before every row and are part of no weight" in said
    assert "use the run itself: reflora eval, predict or chat RUN" in said


def test_a_run_may_begin_from_it(name: str, virtual_run: Path, reflora: Reflora, tmp_path: Path) -> None:
    """It decides how many there are; a prefix goes on without its projection."""
    values = {**small(name), "method": {"name": name, "after": str(virtual_run)}}
    values["eval"] = {**values["eval"], "at_start": True}
    run = begun(reflora, written(values, tmp_path / "open.yaml"), tmp_path / "second")
    assert results(run)["before"] == results(virtual_run)["scores"]
    assert len(adapter(run)[KEY]) == 6
    outcome = reflora("train", tmp_path / "open.yaml", "method.name=dora", "--output", tmp_path / "other")
    assert outcome.status == 2
    assert "method.layer differs" in outcome.err


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("method.rank=4", "method.rank=4 has no meaning with method.layer="),
        ("method.dropout=0.1", "method.dropout=0.1 has no meaning with method.layer="),
        ("method.targets=[q_proj]", "adapts no module"),
        ("method.update=reflora", "is for pairs A, B"),
        ("train.packing=true", "packed rows have other rows before them"),
        ("model.sharded=true", "every process must hold whole"),
        ("method.layer.tokens=5000", "task.max_length is larger than the model allows"),
    ],
)
def test_settings_without_sense_are_refused(
    setting: str, said: str, virtual_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    outcome = reflora("train", virtual_recipe, setting, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert said in " ".join(outcome.err.split())


def test_recomputed_activations_go_with_a_prompt_only(
    name: str, virtual_run: Path, virtual_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    outcome = reflora("train", virtual_recipe, "train.gradient_checkpointing=true", "--output", tmp_path / "run")
    if name == "prefix":
        assert outcome.status == 2
        assert "which is empty when activations are recomputed" in " ".join(outcome.err.split())
        return
    assert outcome.status == 0, outcome.err
    torch.testing.assert_close(adapter(tmp_path / "run")[KEY], adapter(virtual_run)[KEY], atol=1e-5, rtol=0)


def test_a_quantized_base_reads_them(virtual_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    run = begun(reflora, virtual_recipe, tmp_path / "run", "model.quantization=nf4", "train.steps=4")
    outcome = reflora("eval", run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["tasks"]["validation"]["accuracy"] == results(run)["scores"]["validation"]["accuracy"]


def test_two_processes_train_what_one_does(virtual_run: Path, virtual_recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_by_two("train", virtual_recipe, "--output", run)
    assert step_losses(run) == pytest.approx(step_losses(virtual_run), abs=1e-4)
    torch.testing.assert_close(adapter(run)[KEY], adapter(virtual_run)[KEY], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = make("bert").config
    config.vocab_size, config.pad_token_id, config.max_position_embeddings = 1500, 0, 64
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    return saved(model, tmp_path_factory.mktemp("bert"))


def test_a_classifier_of_texts(bert: Path, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """An encoder, with its head beside the prompt: scored, exported to PEFT and ONNX, limited by its positions."""
    more = (f"model.name={bert}", "method.name=prompt", "task.max_train_rows=64", "task.max_eval_rows=24",
            "train.steps=3", "train.epochs=null", "eval.select=last")  # fmt: skip
    run = begun(reflora, recipe, tmp_path / "run", *more, "task.max_length=44")
    assert {key for key in adapter(run) if key != KEY} == {"base_model.classifier.weight", "base_model.classifier.bias"}
    outcome = reflora("eval", run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"] == results(run)["scores"]
    outcome = reflora("export", run, "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert outcome.status == 0, outcome.err
    outcome = reflora("train", recipe, *more, "task.max_length=45", "--output", tmp_path / "long")
    assert outcome.status == 2
    assert "at most 44, the positions" in " ".join(outcome.err.split())
    outcome = reflora(
        "train", recipe, *more[:1], "method.name=prefix", "task.max_length=32", "--output", tmp_path / "p"
    )
    assert outcome.status == 2
    assert "an encoder" in outcome.err
    if pytest.importorskip("onnxruntime"):
        outcome = reflora("export", run, "--format", "onnx", "--output", tmp_path / "onnx", "--json")
        assert outcome.status == 0, outcome.err
        assert outcome.json["largest_difference"] < 1e-3


def test_a_decoder_that_classifies_is_not_for_peft(name: str, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    more = (f"method.name={name}", "task.max_train_rows=64", "task.max_eval_rows=24", "train.steps=3",
            "train.epochs=null", "eval.select=last")  # fmt: skip
    run = begun(reflora, recipe, tmp_path / "run", *more)
    outcome = reflora("eval", run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"] == results(run)["scores"]
    outcome = reflora("export", run, "--format", "peft")
    assert outcome.status == 2
    assert "do not work with a decoder that classifies" in " ".join(outcome.err.split())
