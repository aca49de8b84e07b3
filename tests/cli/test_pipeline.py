"""The main job as a user runs it: train, eval, merge, export, resume."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import peft
import pytest
import torch
import transformers

from tests.cli.conftest import Reflora

METHODS = ("lora", "dora", "reflora", "reflora-s", "scaled-gd", "vera")


def test_run_directory_holds_everything(trained: Path) -> None:
    files = {str(path.relative_to(trained)) for path in trained.rglob("*") if path.is_file()}
    assert {"recipe.yaml", "environment.json", "metrics.jsonl", "results.json", "curves.png"} <= files
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/reflora.json"} <= files
    assert {file.rpartition("/")[0] for file in files if "checkpoints" in file} == {
        "checkpoints/step-000016",
        "checkpoints/step-000020",
    }
    results = json.loads((trained / "results.json").read_text())
    assert set(results["before"]["validation"]) == set(results["scores"]["validation"]) == {"accuracy", "loss"}
    records = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if record["event"] == "step"] == [10, 20]
    assert [record["step"] for record in records if record["event"] == "evaluation"] == [0, 10, 20]
    assert (trained / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_quickstart_learns_facts_it_was_not_trained_on(reflora: Reflora, tmp_path: Path) -> None:
    """The bundled quickstart on half of its rows: from a coin's accuracy to clearly more, on other objects."""
    arguments = ("task.max_train_rows=1500", "train.epochs=2", "task.max_eval_rows=240")
    outcome = reflora("train", "quickstart", *arguments, "--output", tmp_path / "run", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["before"]["validation"]["accuracy"] < 0.6
    assert outcome.json["scores"]["validation"]["accuracy"] > 0.65


def test_eval_repeats_the_score_of_training(trained: Path, reflora: Reflora) -> None:
    results = json.loads((trained / "results.json").read_text())
    outcome = reflora("eval", trained, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"] == results["scores"]


def test_recipe_of_a_run_repeats_it_bit_by_bit(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", trained / "recipe.yaml", "--output", tmp_path / "again")
    assert outcome.status == 0, outcome.err
    name = "adapter/adapter_model.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (trained / name).read_bytes()


def test_resumed_run_equals_an_uninterrupted_one(trained: Path, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Stopped after step 16 with a metrics file that ran on, then continued."""
    stopped = tmp_path / "stopped"
    shutil.copytree(trained, stopped)
    shutil.rmtree(stopped / "checkpoints" / "step-000020")
    for name in ("results.json", "curves.png"):
        (stopped / name).unlink()
    outcome = reflora("train", recipe, "--output", stopped, "--resume")
    assert outcome.status == 0, outcome.err
    assert "continuing from" in outcome.err
    for name in ("adapter/adapter_model.safetensors", "checkpoints/step-000020/optimizer.safetensors"):
        assert (stopped / name).read_bytes() == (trained / name).read_bytes()
    steps = [json.loads(line)["step"] for line in (stopped / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)
    assert len(steps) == len((trained / "metrics.jsonl").read_text().splitlines())


def test_finished_run_is_left_alone(run: Path, recipe: Path, reflora: Reflora) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    outcome = reflora("train", recipe, "--output", run, "--resume")
    assert outcome.status == 0
    assert "finished" in outcome.err
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_merged_model_is_plain_transformers(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("merge", trained, "--output", tmp_path / "merged", "--json")
    assert outcome.status == 0, outcome.err
    report = outcome.json
    assert report["largest_difference"] <= 1e-4
    assert report["changed_predictions"] == 0
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert model.config.id2label == {0: "entailment", 1: "not_entailment"}
    assert model(**tokenizer("a small cup", "a cup is small", return_tensors="pt")).logits.shape == (1, 2)
    scored = reflora("eval", trained / "recipe.yaml", f"model.name={tmp_path / 'merged'}", "--json")
    assert scored.json["scores"]["validation"]["accuracy"] == pytest.approx(
        reflora("eval", trained, "--json").json["scores"]["validation"]["accuracy"]
    )


@pytest.mark.parametrize(("dtype", "written"), [("auto", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")])
def test_merge_casts_once(trained: Path, reflora: Reflora, tmp_path: Path, dtype: str, written: str) -> None:
    outcome = reflora("merge", trained, "--output", tmp_path / "merged", "--dtype", dtype, "--json")
    assert outcome.status == 0, outcome.err
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged")
    assert {str(parameter.dtype) for parameter in model.parameters()} == {f"torch.{written}"}


@pytest.mark.parametrize("method", METHODS)
def test_exported_adapter_gives_the_same_logits_in_peft(
    method: str, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Head included, to 1e-5, against the merged model."""
    run = tmp_path / "run"
    arguments = (f"method.name={method}", "train.epochs=1", "eval.at_start=false", "method.dropout=0.1")
    assert reflora("train", recipe, *arguments, "--output", run).status == 0
    assert reflora("export", run, "--format", "peft", "--output", tmp_path / "peft").status == 0
    assert reflora("merge", run, "--output", tmp_path / "merged").status == 0
    location = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = transformers.AutoModelForSequenceClassification.from_pretrained(location, num_labels=2, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "peft")
    inputs = tokenizer(["a cup is small", "the box is made of wood"], padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(theirs(**inputs).logits, merged(**inputs).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("use_dora", [False, True])
def test_peft_made_adapter_evaluates_with_the_same_scores(
    use_dora: bool, recipe: Path, trained: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """An adapter that PEFT made and saved, with its own loader as the reference."""
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    location = config["base_model_name_or_path"]
    base = transformers.AutoModelForSequenceClassification.from_pretrained(location, num_labels=2, dtype=torch.float32)
    torch.manual_seed(0)
    made = peft.get_peft_model(
        base,
        peft.LoraConfig(
            task_type="SEQ_CLS", r=5, lora_alpha=7, target_modules=["q_proj", "down_proj"], use_dora=use_dora,
            init_lora_weights=False,
        ),
    )  # fmt: skip
    made.save_pretrained(tmp_path / "made")
    outcome = reflora("eval", recipe, "--adapter", tmp_path / "made", "--json")
    assert outcome.status == 0, outcome.err

    from reflora_cli.data.load import load_split
    from reflora_cli.tasks.registry import find_task

    rows = load_split(find_task("builtin/entailment"), "builtin", "validation", 100)
    tokenizer = transformers.AutoTokenizer.from_pretrained(location)
    inputs = tokenizer(
        [row.texts[0] for row in rows], [row.texts[1] for row in rows], truncation=True, max_length=48, padding=True,
        return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        logits = made.eval()(**inputs).logits
    labels = torch.tensor([int(row.label) for row in rows])
    scores = outcome.json["scores"]["validation"]
    assert scores["loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), abs=1e-5)
    assert scores["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item(), abs=1e-6)


def test_dry_run_shows_the_plan_and_writes_nothing(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = reflora("train", recipe, "--dry-run", "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["recipe"]["method"]["rank"] == 4
    assert "trained of" in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("method.name=lora+",), ("the learning rate of B is 0.048", "2 to 57 times below")),
        (("method.lr_ratio=0.5",), ("method.lr_ratio and method.update=reflora both",)),
        (("method.name=lora",), ()),
    ],
)
def test_what_is_legal_and_seldom_meant_is_said_before_training(
    settings: tuple[str, ...], said: tuple[str, ...], recipe: Path, reflora: Reflora
) -> None:
    outcome = reflora("train", recipe, *settings, "--dry-run")
    assert outcome.status == 0, outcome.err
    assert ("caution" in outcome.err) == bool(said)
    assert all(part in outcome.err for part in said)


def test_divergence_stops_with_status_3_and_keeps_the_last_checkpoint(
    recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    arguments = ("train.learning_rate=1e30", "train.max_grad_norm=0", "train.checkpoint_every=1", "method.name=lora")
    outcome = reflora("train", recipe, *arguments, "--output", tmp_path / "run")
    assert outcome.status == 3
    assert re.search(r"step \d+ of 20", outcome.err)
    assert "first non-finite gradient in" in outcome.err
    assert "Traceback" not in outcome.err
    assert any((tmp_path / "run" / "checkpoints").iterdir())


def test_micro_batches_equal_one_large_batch(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    for size in (32, 8):
        arguments = (f"train.micro_batch_size={size}", "train.epochs=1", "eval.at_start=false")
        assert reflora("train", recipe, *arguments, "--output", tmp_path / str(size)).status == 0
    first, second = (json.loads((tmp_path / str(size) / "results.json").read_text()) for size in (32, 8))
    assert first["scores"]["validation"]["loss"] == pytest.approx(second["scores"]["validation"]["loss"], abs=1e-4)


def test_help_imports_nothing_heavy_and_names_every_command() -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom reflora_cli.cli import app\n"
        "result = CliRunner().invoke(app, ['--help'])\nprint(result.stdout)\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'pydantic', 'sklearn', 'accelerate', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "assert result.exit_code == 0 and not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in ("train", "eval", "merge", "export", "push"))


@pytest.mark.parametrize("command", ["train", "eval", "merge", "export", "push"])
def test_every_command_has_help_with_an_example(command: str, reflora: Reflora) -> None:
    outcome = reflora(command, "--help")
    assert outcome.status == 0
    assert f"reflora {command}" in outcome.out
