"""Find the trained model that a user means, and load it.

It is a run directory, a directory with a merged model, or a recipe with an adapter. A directory with a merged model
says in its config what its outputs mean, and by its tokenizer's chat template how it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.ground.paths import exists, expanded, is_directory, is_file
from reflora_cli.model.auto import load_config
from reflora_cli.model.base import positions
from reflora_cli.model.chat_template import ALONE, by_chat_template
from reflora_cli.model.labels import refuse_foreign_head, said_labels
from reflora_cli.model.load import load_tokenizer, loading_errors, quiet_transformers
from reflora_cli.model.precision import Compute, pick_device, resolve_dtype
from reflora_cli.model.sources import find_source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.library import bundled_recipes
from reflora_cli.recipe.sections import EvalSection, ModelSection, Recipe, TrainSection
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.restore import Restored, refuse_random_head, restore
from reflora_cli.runs.trained_base import adapter_base, unchecked
from reflora_cli.serving.writing import MOST_NEW_TOKENS
from reflora_cli.tasks.base import Answers, Metric, PromptTask, SequenceTask, Task
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.metrics import accuracy
from reflora_cli.tasks.registry import find_task
from reflora_cli.tasks.sources import BuiltinSource

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMN = "text"
"""The column of texts for a model directory, which does not say what the columns of training were."""
CLASSIFIER, LANGUAGE = "ForSequenceClassification", ("ForCausalLM", "LMHeadModel")
"""The endings of the architectures in configs."""
UNSCORED: dict[str, Metric] = {"accuracy": accuracy}
"""The metrics of a task that has no labels to score by: a task must have one."""


@dataclass(frozen=True)
class ModelRequest:
    """Which model is meant.

    source: a run directory, a model directory, a YAML file or the name of a bundled recipe. adapter: a directory with
    another adapter than the run's. base: where the base model is now. task: the name of a task, instead of the
    recipe's. columns: the columns of texts, for a model directory without a task. max_new_tokens: instead of the
    recipe's.
    """

    source: str
    adapter: Path | None = None
    base: str | None = None
    task: str | None = None
    columns: tuple[str, ...] = ()
    max_new_tokens: int | None = None


@dataclass(frozen=True)
class Found:
    """A model that was found and is not loaded yet. adapter: None for a model that needs none. directory: that of a
    model with its adapter merged in, else None. has_prompt: whether it is known how instructions were put in training,
    if they were.
    """

    recipe: Recipe
    task: Task
    adapter: Path | None
    directory: Path | None
    has_prompt: bool = True


def find_model(request: ModelRequest) -> Found:
    """Return the model that is meant. Raises InputError for a place that holds none."""
    path = expanded(request.source)
    run = RunDirectory(path)
    if is_file(run.recipe):
        return from_recipe(str(run.recipe), request, request.adapter or run.adapter)
    if is_file(path / "config.json"):
        return from_directory(path, request)
    if request.source not in bundled_recipes():
        if is_directory(path):
            raise no_model(path)
        if not exists(path):
            expected = "a run directory, a model directory, a YAML file or a bundled recipe"
            remedy = nearest(request.source, bundled_recipes(), "reflora list recipes")
            raise InputError(Problem("there is no such model", request.source, expected=expected, remedy=remedy))
    return from_recipe(request.source, request, request.adapter)


def from_recipe(source: str, request: ModelRequest, adapter: Path | None) -> Found:
    """Return the model of a recipe, with its adapter if there is one."""
    settings = {
        "model.name": request.base,
        "task.name": request.task,
        "eval.max_new_tokens": request.max_new_tokens,
    }
    recipe = load_recipe(source, [f"{key}={value}" for key, value in settings.items() if value is not None])
    return Found(recipe, task_of(recipe.task), adapter, None)


def from_directory(path: Path, request: ModelRequest) -> Found:
    """Return the model in a directory that transformers loads by itself. Raises InputError for options that belong to
    a run.
    """
    options = (("--adapter", request.adapter), ("--base", request.base))
    problems = [
        Problem(f"{option} cannot be used with a model directory", option, str(value), "a run or a recipe")
        for option, value in options
        if value
    ]
    if problems:
        raise InputError(*problems)
    task = find_task(request.task) if request.task else told_task(path, request.columns)
    recipe = Recipe(
        model=ModelSection(name=str(path)),
        task=TaskSection(name=task.name),
        train=TrainSection(steps=1),
        eval=EvalSection(max_new_tokens=request.max_new_tokens or MOST_NEW_TOKENS),
    )
    return Found(recipe, task, None, path, has_prompt=bool(request.task) or tells_asking(task))


def tells_asking(task: Task) -> bool:
    """Whether a model directory alone says how its model is asked."""
    return not kind_of(task).protocols or by_chat_template(task.parts)


def no_model(path: Path) -> InputError:
    """Return the error for a directory without a model."""
    expected = "a run directory, or a model directory with config.json and *.safetensors"
    if not is_file(path / "adapter_config.json"):
        return InputError(Problem("this is neither a run nor a model", str(path), expected=expected))
    remedy = f"name the run above it, or a recipe with --adapter {path}"
    return InputError(Problem("this is an adapter without its base", str(path), expected=expected, remedy=remedy))


def told_task(path: Path, columns: tuple[str, ...]) -> SequenceTask | PromptTask:
    """Return the task that a model's config tells of. Raises InputError for a config that does not say enough."""
    config = config_of(path)
    architecture = str(next(iter(getattr(config, "architectures", None) or ()), ""))
    if architecture.endswith(LANGUAGE):
        task = plain_prompts(path.name, (columns or (COLUMN,))[0])
        return replace(task, by_chat_template=bool(tokenizer_of(path).chat_template))
    if not architecture.endswith(CLASSIFIER):
        what, found = "this model neither labels texts nor writes answers", architecture or "no architecture"
        expected = f"an architecture that ends in {CLASSIFIER} or {' or '.join(LANGUAGE)}"
        raise InputError(Problem(what, f"{path / 'config.json'}, architectures", found, expected))
    return SequenceTask(path.name, BuiltinSource(""), columns or (COLUMN,), UNSCORED, outputs_of(config, path))


def config_of(path: Path) -> Any:
    """Return a directory's config. Raises InputError for one that transformers cannot read."""
    try:
        return load_config(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = str(error).strip().partition("\n")[0]
        raise InputError(Problem("the model's config cannot be read", str(path / "config.json"), found)) from error


def tokenizer_of(path: Path) -> PreTrainedTokenizerBase:
    """Return a directory's tokenizer. Raises InputError for one that cannot be read."""
    source = find_source(str(path), None)
    with quiet_transformers(), loading_errors(source):
        return load_tokenizer(source)


def outputs_of(config: Any, path: Path) -> tuple[str, ...]:
    """Return the names of a classifier's outputs; none for the one output of a regression. Raises InputError where the
    config names none.
    """
    if len(config.id2label or {}) == 1:
        return ()
    names = said_labels(config)
    if not names:
        what, found = "the model does not name its labels", ", ".join(map(str, config.id2label.values()))
        where, remedy = f"{path / 'config.json'}, id2label", "write the labels there, or name the task: --task NAME"
        raise InputError(Problem(what, where, found, "the name of each label", remedy))
    return names


def plain_prompts(name: str, column: str) -> PromptTask:
    """Return the task of writing after texts as they are."""

    def example(row: Row) -> PromptExample:
        return PromptExample(row[column], "", row[column])

    return PromptTask(name, None, {column: str}, example, ALONE, answers=Answers.LOSS)


def load_model(found: Found, reporter: Reporter) -> Restored:
    """Load the model onto its device, in evaluation mode. Raises InputError for everything that does not fit."""
    if found.directory is not None:
        return load_directory(found)
    restored = restore(found.recipe, found.adapter)
    if found.adapter and (doubt := unchecked(found.recipe.model, adapter_base(found.adapter))):
        reporter.note(doubt)
    return restored


def load_directory(found: Found) -> Restored:
    """Load a model directory; rows may be as long as the model allows, and answers at most half of that."""
    device, kind = pick_device(), kind_of(found.task)
    dtype = resolve_dtype(found.recipe.model.dtype, device)
    base = kind.load_base(found.recipe.model, None, dtype, 0)
    refuse_random_head(base)
    refuse_foreign_head(base, found.task)
    base.place(device)
    base.model.eval()
    task = found.recipe.task.model_copy(update={"max_length": positions(base)})
    answers = min(found.recipe.eval.max_new_tokens, positions(base) // 2)
    scoring = found.recipe.eval.model_copy(update={"max_new_tokens": answers})
    recipe = found.recipe.model_copy(update={"task": task, "eval": scoring})
    return Restored(recipe, found.task, base, None, None, kind.make_objective(recipe, base, Compute(device, dtype)))


def without_adapter(found: Found) -> Found:
    """Return the base of a model alone. Raises InputError for a model whose adapter cannot be taken off."""
    if found.adapter is None:
        what = "there is no adapter to leave out"
        raise InputError(Problem(what, "--compare", expected="a run, or a recipe with --adapter"))
    return replace(found, adapter=None)
