"""A base that is moved by the start of a run: trained, interrupted, continued, merged, exported and trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import yaml
from safetensors.torch import load_file

from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.runs.restore import restore
from reflora_cli.tasks.registry import find_task
from tests.cli.conftest import WEIGHTS, Reflora, Runs, killed, step_losses, train
from tests.language_models import saved

RECIPE: dict[str, Any] = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "pissa", "rank": 4, "alpha": 6.0, "targets": ["q_proj", "down_proj", "lm_head"]},
    "task": {"name": "builtin/questions", "max_length": 40, "max_train_rows": 32, "max_eval_rows": 8},
    "train": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "checkpoint_every": 2, "log_every": 1},
    "eval": {"protocol": "choices"},
}
BASES = {
    "float32": (),
    "dora": ("method.layer=dora",),
    "randomized": ("method.start.iterations=2", "method.scaling=rslora"),
    "bfloat16": ("model.dtype=bfloat16",),
    "nf4": ("model.quantization=nf4", "method.targets=[q_proj, down_proj]"),
    "int8, dora": ("model.quantization=int8", "method.layer=dora", "method.targets=[q_proj, down_proj]"),
}
every_base = pytest.mark.parametrize("base", BASES)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "pissa.yaml"
    path.write_text(yaml.safe_dump(RECIPE), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def runs(recipe: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One finished run on each base."""
    place = tmp_path_factory.mktemp("runs")
    return Runs(lambda base: train(reflora, recipe, place / base, *BASES[base]))


@every_base
@pytest.mark.parametrize("kept", [0, 1])
def test_a_killed_run_is_continued_to_the_bit(
    base: str, kept: int, runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """From the first checkpoint nothing is decomposed again; before it, everything is, and comes out the same."""
    part = killed(runs[base], tmp_path / "part", kept)
    train(reflora, recipe, part, *BASES[base], "--resume")
    assert (part / WEIGHTS).read_bytes() == (runs[base] / WEIGHTS).read_bytes()
    assert step_losses(part) == step_losses(runs[base])


@every_base
def test_the_run_scores_and_merges_as_what_was_trained(base: str, runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    run = runs[base]
    scored = reflora("eval", run, "--output", tmp_path / "scores", "--json")
    assert scored.status == 0, scored.err
    results = json.loads((run / "results.json").read_text())
    for name in ("accuracy", "accuracy_by_character"):
        assert scored.json["tasks"]["validation"][name] == results["scores"]["validation"][name]
    record = json.loads((run / "adapter" / "reflora.json").read_text())
    assert set(record["offset_ranks"].values()) == {4}
    assert load_file(run / WEIGHTS)[
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    ].shape[0] == 8  # fmt: skip
    merged = reflora("merge", run, "--output", tmp_path / "merged", "--dtype", "float32", "--json")
    assert merged.status == 0, merged.err
    if base != "bfloat16":
        assert merged.json["largest_difference"] <= 2e-5
        assert merged.json["changed_predictions"] == 0
    assert "Meng et al. 2024, PiSSA, arXiv 2404.02948" in (tmp_path / "merged" / "README.md").read_text()


@every_base
def test_peft_computes_the_same_on_the_original_base(base: str, runs: Runs, reflora: Reflora, tmp_path: Path) -> None:
    """Exactly where weights are floats; quantized ones it does not move, and what that costs is measured and said."""
    exported = reflora("export", runs[base], "--format", "peft", "--output", tmp_path / "peft", "--json")
    assert exported.status == 0, exported.err
    assert exported.json["checked_by"].startswith("PEFT")
    cost, card = exported.json["quantization_difference"], (tmp_path / "peft" / "README.md").read_text()
    quantized = base in ("nf4", "int8, dora")
    assert ("differs from what was trained" in card) is quantized
    assert (cost is not None) is quantized
    if quantized:
        assert 0 < cost["mean"] < cost["largest"] < {"nf4": 3.0, "int8, dora": 0.2}[base]
    if base in ("float32", "dora", "randomized"):
        compare_with_peft(runs[base], tmp_path / "peft")


def compare_with_peft(run: Path, exported: Path) -> None:
    restored = restore(load_recipe(str(run / "recipe.yaml"), []), run / "adapter", torch.device("cpu"))
    section, kind = ModelSection(name="builtin:tiny-llama"), kind_of(find_task("builtin/questions"))
    theirs = peft.PeftModel.from_pretrained(kind.load_base(section, None, torch.float32, 0).model, str(exported)).eval()
    ids = torch.arange(1, 31).reshape(3, 10)
    with torch.no_grad():
        ours, expected = restored.base.model(ids).logits, theirs(ids).logits
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


@every_base
def test_training_goes_on_with_the_trained_rank_on_the_moved_base(
    base: str, runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    after = (f"method.after={runs[base]}", "method.name=reflora", "method.update.warmup_steps=0", *BASES[base],
             "eval.at_start=true", "method.start=pissa", "method.start.iterations=null")  # fmt: skip
    second = train(reflora, recipe, tmp_path / "more", *after)
    method = load_recipe(str(second / "recipe.yaml")).method
    assert (method.rank, method.alpha) == (4, 6.0)
    first, more = (json.loads((run / "results.json").read_text()) for run in (runs[base], second))
    assert more["before"] == first["scores"]
    assert more["trained_parameters"] == first["trained_parameters"]
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_A.weight"
    one, two = (load_file(run / WEIGHTS)[key] for run in (runs[base], second))
    assert torch.equal(one[4:], two[4:])
    assert not torch.equal(one[:4], two[:4])


def test_a_checkpoint_that_is_quantized_already(
    runs: Runs, recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no other base then: by PEFT's rules the adapter is on the unmoved one, and what that costs is said."""
    base = tmp_path / "base"
    assert reflora("merge", runs["nf4"], "--requantize", "nf4", "--output", base).status == 0
    settings = (f"model.name={base}", "method.targets=[q_proj, down_proj]", "train.steps=2")
    run = train(reflora, recipe, tmp_path / "run", *settings)
    merged = reflora("merge", run, "--json")
    assert merged.status == 0, merged.err
    assert merged.json["largest_difference"] <= 1e-4
    monkeypatch.setattr("reflora_cli.export.peft_view.find_spec", lambda _: None)
    exported = reflora("export", run, "--format", "peft", "--json")
    assert exported.status == 0, exported.err
    assert exported.json["quantization_difference"]["largest"] > 0.01
    record = json.loads((run / "export-peft" / "reflora.json").read_text())
    assert set(record["offset_ranks"].values()) == {4}


def test_a_rule_needs_no_warm_up(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    settings = ("method.update=reflora", "method.refactor.warmup_steps=0", "method.targets=all-linear",
                "train.learning_rate=3e-4", "train.epochs=2")  # fmt: skip
    run = train(reflora, recipe, tmp_path / "run", *settings)
    health = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert not any(record["plain"] for record in health if record["event"] == "health")
    losses = step_losses(run)
    assert sum(losses[4:]) < 0.95 * sum(losses[:4])  # of the same rows


@pytest.mark.parametrize("name", ["gpt2", "llama-tied"])
def test_transposed_weights_and_a_tied_head(name: str, recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    base = saved(name, tmp_path / "base")
    target = {"gpt2": "[c_attn, c_proj]", "llama-tied": "[lm_head, q_proj]"}[name]
    run = train(reflora, recipe, tmp_path / "run", f"model.name={base}", f"method.targets={target}", "train.steps=2")
    for command in (("merge", run, "--json"), ("export", run, "--format", "peft", "--json")):
        outcome = reflora(*command)
        assert outcome.status == 0, outcome.err


def test_llama_cpp_s_adapter_holds_the_whole_change(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    run = train(reflora, recipe, tmp_path / "run", "method.targets=[q_proj]", "train.steps=2")
    exported = reflora("export", run, "--format", "gguf-adapter", "--output", tmp_path / "adapter", "--json")
    assert exported.status == 0, exported.err
    (file,) = (tmp_path / "adapter").glob("*.gguf")
    assert {int(min(own.shape)) for own in gguf.GGUFReader(file).tensors} == {8}


def test_a_rank_beyond_a_target_is_refused(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", recipe, "method.rank=4096", "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "the method needs A and B of full rank" in " ".join(outcome.err.split())
    assert not (tmp_path / "run").exists()
