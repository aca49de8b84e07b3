"""Write the model card that goes with every export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflora_cli import __version__
from reflora_cli.export.prompting import card_lines
from reflora_cli.methods.settings import Optimizer
from reflora_cli.model.chat_template import QUESTION
from reflora_cli.model.load import load_tokenizer
from reflora_cli.model.sources import Source, find_source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.files import dump_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory, read_results
from reflora_cli.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Subject:
    """What a card is about: a recipe's result on a base. results: the run's results.json, if there is one."""

    recipe: Recipe
    task: Task
    source: Source
    results: dict[str, Any] | None


def model_card(subject: Subject, kind: str, library: str, load: Sequence[str]) -> str:
    """Return a README with base, method, data, scores and how to load it. kind: adapter or model. load: the lines of
    a fenced block.
    """
    recipe, task, source, method = subject.recipe, subject.task, subject.source, subject.recipe.method
    sources = [choice.source for choice in (method.layer, method.start, method.update) if choice.source]
    lines = [
        "---",
        *([] if source.is_local else [f"base_model: {source.name}"]),
        f"library_name: {library}",
        f"tags: [{', '.join(dict.fromkeys((method.layer.peft_type.lower(), str(method.layer), method.name)))}]",
        "---",
        "",
        f"# {task.name}, {kind}: {recipe.model.name}",
        "",
        f"Trained by reflora {__version__} with {method.summary}, "
        f"seed {recipe.train.seed}, on {task.name} ({recipe.task.data}).",
        *(f"Source: {source}." for source in dict.fromkeys(sources)),
        *rule_lines(recipe),
        "",
        *score_lines(subject.results),
        "## Load it",
        "",
        *load,
        "",
        "## Recipe",
        "",
        "```yaml",
        dump_recipe(recipe).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def rule_lines(recipe: Recipe) -> list[str]:
    """Say what the update rule did to this adapter; nothing for plain steps."""
    update, optimizer = recipe.method.update, recipe.train.optimizer
    if update.is_plain:
        return []
    if not update.proven_for_descent:
        return [f"{update.acts}."]
    means = "gradient descent" if optimizer is Optimizer.SGD else f"AdamW{update.under_adamw}"
    return [f"{update.acts}. What its paper proves holds for gradient descent. This run used {means}."]


def subject_of(recipe: Recipe, run: RunDirectory) -> Subject:
    """Return a run as a card's subject."""
    source = find_source(recipe.model.name, recipe.model.revision)
    return Subject(recipe, task_of(recipe.task), source, read_results(run))


def merged_card(recipe: Recipe, run: RunDirectory, directory: Path) -> str:
    """Return the card of a run's merged model. directory: that of the model, with its tokenizer."""
    subject = subject_of(recipe, run)
    tokenizer = load_tokenizer(find_source(str(directory), None))
    load = [*transformers_lines(subject), *asking_lines(subject.task, tokenizer)]
    return model_card(subject, "merged model", "transformers", load)


def asking_lines(task: Task, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the card's section on how a language model is asked; nothing for a classifier. tokenizer: the one with
    the chat template that goes with the model.
    """
    if not task.parts:
        return []
    ask = python(
        f'messages = [{{"role": "user", "content": "{QUESTION}"}}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        "written = model.generate(**inputs, max_new_tokens=100)",
        'print(tokenizer.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    )
    shown = ["The chat template of this tokenizer asks so:", "", *ask, ""] if tokenizer.chat_template else []
    return ["", "## Ask it", "", *card_lines(task.parts, tokenizer), "", *shown]


def python(*lines: str) -> list[str]:
    """Return a fenced block of Python."""
    return ["```python", *lines, "```"]


def base_lines(task: Task, location: str) -> list[str]:
    """Return Python that loads the base model."""
    kind = kind_of(task)
    arguments = [repr(location), *(f"{name}={value!r}" for name, value in kind.base_arguments.items())]
    load = f"base = {kind.auto_class}.from_pretrained({', '.join(arguments)})"
    return [f"from transformers import {kind.auto_class}", "", load]


def peft_lines(subject: Subject) -> list[str]:
    """Return Python that puts the adapter on its base with PEFT."""
    lines = base_lines(subject.task, subject.source.location)
    return python(
        "from peft import PeftModel", *lines, 'model = PeftModel.from_pretrained(base, "path/to/this/directory")'
    )


def transformers_lines(subject: Subject) -> list[str]:
    """Return Python that loads the merged model with transformers."""
    auto = kind_of(subject.task).auto_class
    return python(
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f'model = {auto}.from_pretrained("path/to/this/directory")',
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")',
    )


def score_lines(results: dict[str, Any] | None) -> list[str]:
    """Return a table of the selected adapter's scores."""
    if not results or not results.get("scores"):
        return []
    rows = [
        f"| {split} | {name} | {value:.4f} |"
        for split, scores in results["scores"].items()
        for name, value in scores.items()
    ]
    settings = "; ".join(f"{name} {value}" for name, value in (results.get("settings") or {}).items())
    head = [f"## Scores after step {results['selected_step']}", "", "| split | metric | value |", "|---|---|---|"]
    return [*head, *rows, "", *([f"Scored with {settings}.", ""] if settings else [])]
