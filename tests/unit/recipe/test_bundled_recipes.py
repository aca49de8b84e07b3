"""Every recipe that comes with the package is valid, alone and under every preset, and says what was published."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.update_record import Refactor
from reflora_cli.recipe import library
from reflora_cli.recipe.files import dump_recipe, load_recipe
from reflora_cli.recipe.library import bundled_recipes
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.tasks.base import Answers, PromptTask
from reflora_cli.tasks.registry import find_task

ROOT = Path(__file__).parents[3] / "recipes"
GLUE = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb")
SIZES = {
    "cola": 8551,
    "mnli": 392702,
    "mrpc": 3668,
    "qnli": 104743,
    "qqp": 363846,
    "rte": 2490,
    "sst2": 67349,
    "stsb": 5749,
}
"""The training rows of GLUE's tasks."""
BY_TABLE = {
    "roberta-base": ("FacebookAI/roberta-base", 8, 8.0, ("query", "value"), 0.06),
    "roberta-large": ("FacebookAI/roberta-large", 8, 16.0, ("query", "value"), 0.06),
    "deberta-v2-xxl": ("microsoft/deberta-v2-xxlarge", 16, 32.0, ("query_proj", "value_proj"), 0.1),
}
"""Model, rank, alpha, targets and the share of warm-up steps of LoRA's published runs on GLUE."""
COMMONSENSE = {"llama-7b": (2e-4, 200), "llama2-7b": (2e-4, 100), "llama3-8b": (1e-4, 100)}
"""Learning rate and RefLoRA's warm-up of the published runs."""
WITHOUT_TIMING = {
    "commonsense/llama3-8b-stella": {"warmup_steps": 100},
    "commonsense/llama-7b-dora": {"warmup_steps": 200},
    "commonsense/llama2-7b-dora": {"warmup_steps": 100},
    "commonsense/llama3-8b-dora": {"warmup_steps": 100},
    "commonsense/llama-7b-nora-plus": {},
    "commonsense/llama2-7b-nora-plus": {},
}
"""Recipes whose rule has no warm-up or one of its own, and what they say of it for other rules."""
RECIPES = sorted(bundled_recipes())


@cache
def loaded(name: str, *overrides: str) -> Recipe:
    """A recipe, read once."""
    return load_recipe(name, overrides)


def test_every_file_is_bundled_by_its_path_but_those_that_recipes_extend() -> None:
    files = {path.relative_to(ROOT).with_suffix("").as_posix() for path in ROOT.rglob("*.y*ml")}
    assert set(RECIPES) == {name for name in files if not name.startswith(("base/", "plans/"))}


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_and_survives_its_dump(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, [])
    assert recipe == load_recipe(str(bundled_recipes()[name]), [])
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(str(tmp_path / "recipe.yaml"), []) == recipe


@pytest.mark.parametrize("method", PRESETS)
@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_under_every_preset(name: str, method: str) -> None:
    start, rank = Method(name=method).start, loaded(name).method.rank
    base = ["model.quantization=nf4"] if start.corrects_quantization else []
    base += [f"method.rank={rank * start.rank_multiple}"] if rank % start.rank_multiple else []
    default, changed = loaded(name, *base), load_recipe(name, [f"method.name={method}", *base])
    assert changed.method.label == method
    kept = {key: getattr(default.method, key) for key in ("rank", "alpha", "dropout", "targets")}
    layer = changed.method.layer
    replaced = {*layer.meaningless, *(["targets"] if layer.in_place or layer.is_virtual or layer.places else [])}
    kept = {key: own for key, own in kept.items() if key not in replaced}
    timing = Refactor(**default.method.update.model_dump(include={*Refactor.model_fields}))
    if name in WITHOUT_TIMING:
        timing = Refactor(**WITHOUT_TIMING[name])
    assert changed.method == Method(name=method, **kept, refactor=timing)
    assert changed.model_copy(update={"method": default.method}) == default


@pytest.mark.parametrize("path", sorted((ROOT / "base").glob("*.yaml")), ids=lambda path: str(path.stem))
def test_base_is_valid_as_it_stands(path: Path) -> None:
    assert isinstance(load_recipe(str(path), []), Recipe)


@pytest.mark.parametrize("task", GLUE)
def test_glue_recipe_trains_its_own_task(task: str) -> None:
    recipe = load_recipe(f"glue/{task}", [])
    assert recipe.task.name == f"glue/{task}"
    assert find_task(recipe.task.name).name == recipe.task.name
    assert next(iter(glue_file(task))) == "extends"


@pytest.mark.parametrize("task", GLUE)
def test_glue_recipes_share_model_and_method(task: str) -> None:
    """They differ in what the published runs chose by task: rate, length, epochs, warm-up, decay and dropout."""
    recipe, cola = load_recipe(f"glue/{task}", []), load_recipe("glue/cola", [])
    assert (recipe.method, recipe.train.schedule, recipe.train.batch_size, recipe.eval.every) == (
        cola.method,
        cola.train.schedule,
        cola.train.batch_size,
        cola.eval.every,
    )
    chosen = {"classifier_dropout": None}
    assert recipe.model.model_copy(update=chosen) == cola.model.model_copy(update=chosen)


def test_cola_is_as_published() -> None:
    """Learning rate 1e-3, batch 32, 5 epochs, 64 tokens, classifier dropout 0.15, 100 warm-up steps of either kind."""
    recipe = load_recipe("glue/cola", [])
    train = recipe.train
    assert (train.learning_rate, train.head_learning_rate, train.batch_size, train.epochs) == (1e-3, None, 32, 5.0)
    assert (train.warmup_steps, train.weight_decay, train.schedule, train.max_grad_norm) == (100, 0.0, "linear", 1.0)
    assert (recipe.task.max_length, recipe.model.classifier_dropout) == (64, 0.15)
    assert (recipe.method.update.warmup_steps, recipe.method.update.interval) == (100, 1)
    assert (recipe.eval.every, recipe.eval.select, train.seed) == ("epoch", "last", 0)


@pytest.mark.parametrize("task", sorted({*GLUE} - {"cola"}))
def test_other_glue_recipes_say_that_their_numbers_are_not_the_published_ones(task: str) -> None:
    comment = (ROOT / "glue" / f"{task}.yaml").read_text(encoding="utf-8").partition("extends")[0]
    assert "AdaLoRA" in comment
    assert "not public" in comment


def test_warmup_of_mrpc_is_a_tenth_of_its_steps() -> None:
    train = load_recipe("glue/mrpc", []).train
    steps_per_epoch = -(-3668 // train.batch_size)
    assert train.warmup_steps == round(0.1 * steps_per_epoch * (train.epochs or 0))


@pytest.mark.parametrize("task", GLUE)
def test_adalora_s_budgets_fit_the_runs_of_its_scripts(task: str) -> None:
    recipe = load_recipe(f"glue/adalora/{task}", [])
    assert (recipe.method.label, recipe.task.name) == ("adalora", f"glue/{task}")
    layer = recipe.method.layer
    steps = math.ceil(SIZES[task] / recipe.train.batch_size) * int(recipe.train.epochs or 0)
    initial, final = layer.phases(steps)
    assert layer.too_short(steps) == ""
    assert 0 < initial < steps / 3
    assert steps / 8 < final < 2 * steps / 3
    assert (layer.target(recipe.method.rank), recipe.method.rank) == (1, 3 if task in ("mnli", "cola") else 2)
    if task == "mrpc":
        assert recipe.train.warmup_steps == round(0.1 * steps)


@pytest.mark.parametrize("task", GLUE)
@pytest.mark.parametrize("model", BY_TABLE)
def test_recipes_of_lora_s_tables_warm_up_for_their_share_of_steps(model: str, task: str) -> None:
    recipe, (name, rank, alpha, targets, share) = load_recipe(f"glue/{model}/{task}", []), BY_TABLE[model]
    method, train = recipe.method, recipe.train
    assert (recipe.model.name, recipe.task.name) == (name, f"glue/{task}")
    assert (method.label, method.rank, method.alpha, method.targets) == ("lora", rank, alpha, targets)
    steps = math.ceil(SIZES[task] / train.batch_size) * int(train.epochs or 0)
    assert train.warmup_steps == math.ceil(round(share * steps, 6))
    comment = bundled_recipes()[f"glue/{model}/{task}"].read_text(encoding="utf-8").partition("extends")[0]
    assert all(words in " ".join(comment.replace("#", "").split()) for words in (f"of {steps:,} steps", "Published:"))


@pytest.mark.parametrize(
    ("name", "rate", "batch", "epochs", "length"),
    [
        ("roberta-base/sst2", 5e-4, 16, 60, 512),
        ("roberta-base/rte", 5e-4, 32, 80, 512),
        ("roberta-large/mnli", 3e-4, 4, 10, 128),
        ("roberta-large/qnli", 2e-4, 4, 10, 512),
        ("deberta-v2-xxl/sst2", 6e-5, 8, 16, 128),
        ("deberta-v2-xxl/qqp", 1e-4, 8, 11, 320),
    ],
)
def test_some_columns_of_lora_s_tables(name: str, rate: float, batch: int, epochs: float, length: int) -> None:
    recipe = load_recipe(f"glue/{name}", [])
    train = recipe.train
    assert (train.learning_rate, train.batch_size, train.epochs, recipe.task.max_length) == (
        rate,
        batch,
        epochs,
        length,
    )


@pytest.mark.parametrize("name", ["samsum", "wikisql"])
def test_texts_with_an_open_base_say_that_no_score_is_repeated(name: str) -> None:
    recipe = load_recipe(f"texts/{name}", [])
    task = task_of(recipe.task)
    assert isinstance(task, PromptTask)
    assert (task.name, task.answers) == (name, Answers.COMPARED)
    assert "no measure of this base" in " ".join(
        bundled_recipes()[f"texts/{name}"].read_text().replace("#", "").split()
    )


@pytest.mark.parametrize(
    ("name", "task"), [("quickstart", "builtin/entailment"), ("quickstart-commonsense", "builtin/questions")]
)
def test_quickstart_needs_no_download(name: str, task: str) -> None:
    recipe = load_recipe(name, [])
    assert (recipe.model.name, recipe.task.name) == ("builtin:tiny-llama", task)
    assert (recipe.method.name, recipe.method.targets, recipe.eval.at_start) == ("reflora", "all-linear", True)


@pytest.mark.parametrize("name", COMMONSENSE)
def test_commonsense_is_as_published(name: str) -> None:
    """Batch 16 in micro-batches of 8, 2 epochs, 256 tokens, loss on the prompt too, 120 rows held out, 4 beams."""
    recipe = load_recipe(f"commonsense/{name}", [])
    method, train = recipe.method, recipe.train
    assert (train.learning_rate, method.update.warmup_steps) == COMMONSENSE[name]
    assert (method.update.kind, method.rank, method.alpha, method.dropout) == ("reflora", 32, 64.0, 0.05)
    assert method.targets == ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
    assert (train.batch_size, train.micro_batch_size, train.epochs, train.warmup_steps) == (16, 8, 2.0, 100)
    assert (train.schedule, train.weight_decay, train.seed, recipe.model.dtype) == ("linear", 0.0, 42, "float16")
    task, evaluation = recipe.task, recipe.eval
    assert (task.name, task.max_length, task.train_on_prompt, task.validation_rows) == ("commonsense", 256, True, 120)
    assert (evaluation.every, evaluation.select, evaluation.protocol) == (1000, "best", "llm-adapters")
    assert (evaluation.num_beams, evaluation.max_new_tokens) == (4, 32)


DORA = {"llama-7b": (2e-4, "78.4", "77.5"), "llama2-7b": (2e-4, "79.7", "80.5"), "llama3-8b": (1e-4, "85.2", "85.0")}
"""DoRA's learning rate and published averages at rank 32 and 16."""
NORA_PLUS = {"llama-7b": (0.02, "76.71"), "llama2-7b": (0.1, "78.92")}
"""The sigma of NoRA+ and its published average."""


def comment_of(name: str) -> str:
    return bundled_recipes()[name].read_text(encoding="utf-8").partition("extends")[0]


@pytest.mark.parametrize("base", DORA)
def test_dora_on_commonsense_is_as_published(base: str) -> None:
    """Three epochs where RefLoRA's runs have two; all else that is public is the same."""
    recipe, shared = load_recipe(f"commonsense/{base}-dora"), load_recipe(f"commonsense/{base}", ["method.name=dora"])
    rate, *published = DORA[base]
    assert recipe.method.label == "dora"
    assert (recipe.train.learning_rate, recipe.train.epochs) == (rate, 3.0)
    changed = {"train": recipe.train.model_copy(update={"epochs": 2.0})}
    assert recipe.model_copy(update=changed) == shared
    assert all(score in comment_of(f"commonsense/{base}-dora") for score in published)


@pytest.mark.parametrize("base", NORA_PLUS)
def test_nora_plus_on_commonsense_is_as_published(base: str) -> None:
    recipe, shared = load_recipe(f"commonsense/{base}-nora-plus"), load_recipe(f"commonsense/{base}")
    method, (sigma, published) = recipe.method, NORA_PLUS[base]
    assert (method.update.kind, method.update.warmup_steps) == ("normalized-scaled-gd", 0)
    assert (method.start.kind, method.start.sigma) == ("nora", sigma)
    assert (method.rank, method.alpha, method.dropout, method.targets) == (32, 64.0, 0.05, shared.method.targets)
    assert (recipe.train.learning_rate, recipe.train.epochs) == (3e-4, 3.0)
    changed = {"learning_rate": shared.train.learning_rate, "epochs": shared.train.epochs}
    assert recipe.train.model_copy(update=changed) == shared.train
    assert (recipe.model, recipe.task, recipe.eval) == (shared.model, shared.task, shared.eval)
    assert published in comment_of(f"commonsense/{base}-nora-plus")


def test_stella_on_commonsense_is_as_published() -> None:
    """The numbers of its authors' script; what it shares with the other runs is theirs too."""
    recipe, shared = load_recipe("commonsense/llama3-8b-stella", []), load_recipe("commonsense/llama3-8b", [])
    method, train = recipe.method, recipe.train
    assert method == Method(
        name="stella",
        rank=32,
        alpha=64.0,
        dropout=0.05,
        targets=("q_proj", "k_proj", "v_proj", "up_proj", "down_proj"),
        layer={"kind": "stella", "diagonal": True},
    )
    assert (train.learning_rate, train.warmup_steps, train.epochs, train.weight_decay) == (5e-4, 500, 3.0, 0.0)
    assert (train.batch_size, train.micro_batch_size, train.schedule, train.seed) == (16, 8, "linear", 42)
    assert (recipe.model.dtype, recipe.eval.every, recipe.eval.select) == ("bfloat16", 200, "best")
    assert (recipe.task, recipe.eval.num_beams) == (shared.task, 4)


@pytest.mark.parametrize(("name", "penalty"), [("e2e", 0.9), ("e2e-large", 0.9), ("webnlg", 0.8)])
def test_texts_from_data_are_as_published(name: str, penalty: float) -> None:
    """Rate 2e-4, decay 0.01, 500 warm-up steps, batch 8, 5 epochs, smoothing 0.1, rank 4, alpha 32, ten beams."""
    recipe = load_recipe(f"nlg/{name}", [])
    method, train, evaluation = recipe.method, recipe.train, recipe.eval
    assert (recipe.task.name, recipe.model.name) == (
        f"nlg/{name.removesuffix('-large')}",
        f"openai-community/gpt2-{'large' if name.endswith('large') else 'medium'}",
    )
    assert (method.label, method.rank, method.alpha, method.dropout) == ("lora", 4, 32.0, 0.1)
    assert method.targets == ("c_attn",)
    assert (train.learning_rate, train.weight_decay, train.warmup_steps, train.schedule) == (2e-4, 0.01, 500, "linear")
    assert (train.batch_size, train.epochs, train.label_smoothing, train.max_grad_norm) == (8, 5.0, 0.1, 0.0)
    assert (evaluation.num_beams, evaluation.length_penalty, evaluation.no_repeat_ngram) == (10, penalty, 4)


def test_no_line_is_too_long() -> None:
    for path in ROOT.rglob("*.yaml"):
        assert max(map(len, path.read_text(encoding="utf-8").splitlines())) <= 120, path


def test_recipes_of_the_installed_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = tmp_path / "_recipes"
    (installed / "deep" / "er").mkdir(parents=True)
    (installed / "deep" / "er" / "mine.yaml").write_text("model: {}", encoding="utf-8")
    monkeypatch.setattr(library, "PLACES", (installed, ROOT))
    assert list(bundled_recipes()) == ["deep/er/mine"]
    monkeypatch.setattr(library, "PLACES", (tmp_path / "nowhere", ROOT))
    assert sorted(bundled_recipes()) == RECIPES
    monkeypatch.setattr(library, "PLACES", (tmp_path / "nowhere",))
    assert bundled_recipes() == {}


def glue_file(task: str) -> dict[str, Any]:
    return dict(yaml.safe_load((ROOT / "glue" / f"{task}.yaml").read_text(encoding="utf-8")))
