"""A run that begins from an adapter: it starts where that is, and is a run like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import find_source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.runs.restore import restore
from reflora_cli.tasks.registry import find_task
from reflora_cli.training.earlier import find_earlier, settled
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare
from tests.cli.conftest import Reflora, records

CPU = torch.device("cpu")
WEIGHTS = "adapter/adapter_model.safetensors"
SMALL = ("task.max_train_rows=64", "task.max_eval_rows=16", "train.checkpoint_every=2", "train.log_every=1")
OPEN = """\
model: {name: builtin:tiny-llama, dtype: float32}
method: {name: lora}
task: {name: builtin/entailment, max_length: 48, max_train_rows: 320, max_eval_rows: 100}
train: {steps: 4, batch_size: 16, learning_rate: 3e-3}
eval: {at_start: true}
"""
PATTERNS: dict[str, Any] = {
    "r": 4,
    "lora_alpha": 6,
    "target_modules": ["q_proj", "v_proj", "down_proj"],
    "modules_to_save": ["score"],
    "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.down_proj": 3},
    "alpha_pattern": {"down_proj": 10},
}


@pytest.fixture(scope="module")
def open_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that leaves open what the adapter decides."""
    path = tmp_path_factory.mktemp("recipe") / "open.yaml"
    path.write_text(OPEN, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def by_peft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's adapter for the entailment task, whose modules differ in rank and alpha."""
    directory = tmp_path_factory.mktemp("peft")
    model = peft.get_peft_model(base(), peft.LoraConfig(task_type="SEQ_CLS", **PATTERNS))
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(directory)
    return directory


def base() -> Any:
    section = ModelSection(name="builtin:tiny-llama")
    return kind_of(find_task("builtin/entailment")).load_base(section, None, torch.float32, 0).model


def job_of(recipe: Recipe) -> Job:
    earlier = find_earlier(recipe)
    own = settled(recipe, earlier)
    return prepare(own, Compute(CPU, torch.float32), own.model, earlier)


def trained_after(reflora: Reflora, recipe: Path, output: Path, *more: object) -> Path:
    outcome = reflora("train", recipe, *SMALL, *more, "--output", output)
    assert outcome.status == 0, outcome.err
    return output


@torch.no_grad()
def logits(model: nn.Module, arguments: dict[str, Tensor]) -> Tensor:
    inputs = {name: tensor for name, tensor in arguments.items() if name != "labels"}
    return model.eval()(**inputs).logits


@pytest.mark.parametrize("place", ["", "adapter"])
def test_it_starts_exactly_where_the_earlier_run_ended(place: str, trained: Path, open_recipe: Path) -> None:
    """The logits are equal to the last bit, and what the recipe leaves open is the adapter's."""
    job = job_of(load_recipe(str(open_recipe), [f"method.after={trained / place}"]))
    source = restore(load_recipe(str(trained / "recipe.yaml")), trained / "adapter", CPU)
    rows = job.rows.training[:12]
    job.base.model.eval()
    assert torch.equal(job.objective.probe(rows), source.objective.probe(rows))
    method = job.recipe.method
    assert (method.rank, method.alpha, method.label) == (4, 8.0, "lora")
    assert job.facts()["after"] == f"{trained / place} (35 modules), with score"
    assert "not checked" not in job.facts()


def test_dora_goes_on_as_dora_under_another_rule(open_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Magnitudes are taken over; the first score is the last one of the earlier run."""
    first = trained_after(reflora, open_recipe, tmp_path / "dora", "method.name=dora", "eval.select=last")
    after = (f"method.after={first}", "method.name=reflora", "method.refactor.warmup_steps=0")
    second = trained_after(reflora, open_recipe, tmp_path / "more", *after)
    assert load_recipe(str(second / "recipe.yaml")).method.layer.kind == "dora"
    before, after_it = (json.loads((run / "results.json").read_text()) for run in (first, second))
    assert after_it["before"] == before["scores"]
    assert after_it["method"] == "reflora, layer dora"
    assert not any(record["plain"] for record in records(second, "health"))
    outcome = reflora("merge", second, "--output", tmp_path / "merged")
    assert outcome.status == 0, outcome.err


def test_peft_adapter_with_patterns_is_trained_as_adamw_would(
    by_peft: Path, open_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """PEFT's own model under torch's AdamW with fresh moments is the reference, before and after three steps."""
    plain = ("train.steps=3", "train.schedule=constant", "train.max_grad_norm=0", "eval.select=last")
    overrides = [f"method.after={by_peft}", *SMALL, *plain]
    job = job_of(load_recipe(str(open_recipe), overrides))
    theirs = peft.PeftModel.from_pretrained(base(), by_peft, is_trainable=True)
    batches = [job.objective.arguments([job.rows.training[i] for i in job.sampler.step_rows(n)]) for n in range(3)]
    torch.testing.assert_close(logits(job.base.model, batches[0]), logits(theirs, batches[0]), atol=1e-5, rtol=1e-5)
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
    for batch in batches:
        labels = batch["labels"]
        found = theirs.train()(**{name: own for name, own in batch.items() if name != "labels"}).logits
        optimizer.zero_grad()
        nn.functional.cross_entropy(found, labels).backward()
        optimizer.step()
    run = trained_after(reflora, open_recipe, tmp_path / "run", *overrides)
    ours = peft.PeftModel.from_pretrained(base(), run / "adapter")
    torch.testing.assert_close(logits(ours, batches[0]), logits(theirs, batches[0]), atol=1e-5, rtol=1e-5)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert sorted(config["rank_pattern"].values()) == [2, 2, 2, 2, 2, 3]
    assert set(config["alpha_pattern"].values()) == {10.0}
    outcome = reflora("export", run, "--format", "peft", "--output", tmp_path / "exported")
    assert outcome.status == 0, outcome.err
    assert "is not checked" in job.facts()["not checked"]


def test_it_resumes_to_the_last_bit_when_the_source_is_gone(
    trained: Path, open_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    source = shutil.copytree(trained, tmp_path / "source")
    after = (f"method.after={source}", "method.name=reflora", "method.refactor.warmup_steps=1")
    whole = trained_after(reflora, open_recipe, tmp_path / "whole", *after)
    stopped = shutil.copytree(whole, tmp_path / "stopped")
    shutil.rmtree(source)
    for step in (None, 2):
        last = stopped / "checkpoints" / "step-000004"
        shutil.rmtree(last if step else stopped / "checkpoints")
        for name in ("results.json", "adapter"):
            path = stopped / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        trained_after(reflora, open_recipe, stopped, *after, "--resume")
        for name in (WEIGHTS, "adapter/adapter_config.json", "adapter/reflora.json", "recipe.yaml"):
            assert (stopped / name).read_bytes() == (whole / name).read_bytes()
    record = json.loads((whole / "environment.json").read_text())["after"]
    assert record == json.loads((whole / "adapter" / "reflora.json").read_text())["after"]
    assert load_file(whole / "after" / "adapter_model.safetensors").keys() == load_file(whole / WEIGHTS).keys()
    assert reflora("eval", whole, "--limit", 8).status == 0


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("task.name=builtin/acceptability", "drawn anew: the adapter's head is for other labels (entailment,"),
        ("task.name=builtin/questions", "score: the model has no such module"),
        ("method.targets=all-linear", "all-linear (35)"),
    ],
)
def test_another_task_has_another_head(
    change: str, expected: str, trained: Path, open_recipe: Path, reflora: Reflora
) -> None:
    outcome = reflora("train", open_recipe, f"method.after={trained}", change, *SMALL, "--dry-run")
    assert outcome.status == 0, outcome.err
    assert expected in " ".join(outcome.err.split())


WRONG = {
    "no directory": ("method.after=nowhere", ["the adapter directory does not exist", "method.after: nowhere"]),
    "no adapter": ("method.after={tmp}", ["this directory holds no adapter"]),
    "a file": ("method.after={run}/adapter/adapter_config.json", ["is a file; a directory is expected"]),
    "rank": ("method.rank=8", ["method.rank differs", "8 in the recipe", "4, as in"]),
    "alpha": ("method.alpha=2", ["method.alpha differs", "2.0 in the recipe", "8.0, as in"]),
    "scaling": ("method.name=rslora", ["method.scaling differs", "rslora in the recipe", "standard, as in"]),
    "layer": ("method.name=dora", ["method.layer differs", "dora in the recipe", "lora, as in", "merge the adapter"]),
    "targets": ("method.targets=[q_proj]", ["method.targets differs", "q_proj (5 modules)", "v_proj (35 modules)"]),
    "other base": ("model.name={tmp}/other", ["the base model is not the one that the adapter was trained on"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_with_one_message(
    case: str, trained: Path, open_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    change, expected = WRONG[case]
    if case == "other base":
        model = base()
        model.model.norm.weight.data.mul_(1.5)
        model.save_pretrained(tmp_path / "other")
        place = Path(find_source("builtin:tiny-llama", None).location)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(place / name, tmp_path / "other")
    changes = [f"method.after={trained}", change.format(tmp=tmp_path, run=trained)]
    outcome = reflora("train", open_recipe, *changes, *SMALL, "--output", tmp_path / "run")
    text = " ".join(outcome.err.split())
    assert outcome.status == 2, outcome.err
    assert all(part in text for part in expected), outcome.err
    assert text.count("where:") == 1
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_modules_that_would_be_lost_are_named_with_the_way_to_keep_them(
    open_recipe: Path, reflora: Reflora, tmp_path: Path
) -> None:
    settings = {**PATTERNS, "modules_to_save": ["score", "model.norm"]}
    peft.get_peft_model(base(), peft.LoraConfig(task_type="SEQ_CLS", **settings)).save_pretrained(tmp_path)
    arguments = ("train", open_recipe, f"method.after={tmp_path}", *SMALL, "--dry-run")
    refused = reflora(*arguments)
    assert refused.status == 2
    remedy = "method.trainable_modules=[model.norm, score]"
    assert remedy in " ".join(refused.err.split())
    assert "with model.norm, score" in " ".join(reflora(*arguments, remedy).err.split())


def test_reflora_needs_its_warm_up_where_b_is_zero(open_recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    model = peft.get_peft_model(base(), peft.LoraConfig(task_type="SEQ_CLS", **PATTERNS))
    model.save_pretrained(tmp_path)
    changes = (f"method.after={tmp_path}", "method.name=reflora", "method.refactor.warmup_steps=0")
    outcome = reflora("train", open_recipe, *changes, *SMALL, "--dry-run")
    assert outcome.status == 2
    assert "the adapter's B is 0" in " ".join(outcome.err.split())
