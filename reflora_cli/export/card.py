"""Write the model card that goes with every adapter and export.

A card is published: it has names of the hub, and of local paths their last part only (`public.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reflora_cli import __version__
from reflora_cli.adapter_io.config import PeftConfig, read_json
from reflora_cli.adapter_io.files import RECORD
from reflora_cli.data.load import OWN
from reflora_cli.export.metadata import Published, front_matter
from reflora_cli.export.prompting import card_lines
from reflora_cli.export.public import last_part, public_recipe
from reflora_cli.export.usage import peft_lines, transformers_lines
from reflora_cli.export.vllm import vllm_line
from reflora_cli.ground.paths import is_file
from reflora_cli.methods.settings import Optimizer, Quantization
from reflora_cli.model.load import load_tokenizer
from reflora_cli.model.sources import Source, find_source, weights_hash
from reflora_cli.recipe.files import dump_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory, read_results
from reflora_cli.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Subject:
    """What a card is about: a recipe's result on a base.

    recipe: with public names only. results: the run's results.json, if there is one. labels: those of a classifier's
    outputs, in their order. has_tokenizer: whether a tokenizer lies beside what the card is about, as it does not in
    older runs. made: a sentence on how it was made, where it is not the result of this recipe's training.
    """

    recipe: Recipe
    task: Task
    source: Source
    results: dict[str, Any] | None
    labels: tuple[str, ...] = ()
    has_tokenizer: bool = True
    made: str = ""

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of the kept adapter, by split or task."""
        return (self.results or {}).get("scores") or {}


def model_card(subject: Subject, kind: str, library: str, load: Sequence[str]) -> str:
    """Return a README with what the hub reads, base, method, data, scores and how to load it.

    kind: adapter or model. library: the one that loads it. load: the lines on how.
    """
    recipe, task = subject.recipe, subject.task
    lines = [
        "---",
        front_matter(Published(recipe, task, subject.source, subject.scores), library),
        "---",
        "",
        f"# {task.name}, {kind}: {recipe.model.name}",
        "",
        *([subject.made] if subject.made else trained_lines(recipe, task)),
        *base_note(subject.source),
        "",
        *score_lines(subject.results),
        "## Load it",
        "",
        *load,
        "",
        *([] if subject.made else training_lines(recipe)),
    ]
    return "\n".join(lines)


def trained_lines(recipe: Recipe, task: Task) -> list[str]:
    """Say with what it was trained, and who proposed that."""
    method = recipe.method
    sources = [choice.source for choice in (method.layer, method.start, method.update) if choice.source]
    return [
        f"Trained by reflora {__version__} with {method.summary}, "
        f"seed {recipe.train.seed}, on {task.name}{data_words(recipe)}.",
        *(f"Source: {source}." for source in dict.fromkeys(sources)),
        *rule_lines(recipe),
    ]


def training_lines(recipe: Recipe) -> list[str]:
    """Return the section with the settings of training, the most important ones as a table."""
    return ["## Training", "", *fact_lines(recipe), "", "```yaml", dump_recipe(recipe).rstrip(), "```", ""]


def base_note(source: Source) -> list[str]:
    """Say which base it was where it is not one of the hub, and which weights it has."""
    if not source.is_local:
        return []
    base = "a local directory" if source.is_path else f"{source.name}, which comes with a Python package"
    return ["", f"The base was {base}; its weights have the sha256 {weights_hash(source)}."]


def data_words(recipe: Recipe) -> str:
    """Name the user's own data."""
    return "" if recipe.task.data in OWN else f" ({recipe.task.data})"


def fact_lines(recipe: Recipe) -> list[str]:
    """Return a table of the settings that decide most."""
    method, train = recipe.method, recipe.train
    targets = method.targets if isinstance(method.targets, str) else ", ".join(f"`{name}`" for name in method.targets)
    rates = [f"{train.learning_rate:g}"]
    rates += [f"{train.head_learning_rate:g} for modules trained whole"] if train.head_learning_rate else []
    rates += [f"that of B {method.lr_ratio:g} times that of A"] if method.lr_ratio != 1 else []
    length = f"{train.steps} steps" if train.steps else f"{train.epochs:g} epochs"
    facts = {
        "method": method.label,
        **({"rank": str(method.rank)} if method.layer.counts("rank") else {}),
        **({"virtual tokens": str(method.layer.reserved)} if method.layer.is_virtual else {}),
        **({"alpha": f"{method.alpha:g}"} if method.layer.counts("alpha") else {}),
        "targets": targets,
        "optimizer": f"{train.optimizer}, {train.schedule} after {train.warmup_steps} steps of warm-up",
        "learning rate": ", ".join(rates),
        "length": f"{length} of {train.batch_size} rows",
        "seed": str(train.seed),
    }
    return ["| setting | value |", "|---|---|", *(f"| {name} | {escaped(value)} |" for name, value in facts.items())]


def escaped(text: str) -> str:
    """Return a text for a table's cell: a bar, as in a regular expression, would end it."""
    return text.replace("|", "\\|")


def rule_lines(recipe: Recipe) -> list[str]:
    """Say what the update rule did to this adapter; nothing for plain steps."""
    update, optimizer = recipe.method.update, recipe.train.optimizer
    if update.is_plain:
        return []
    if not update.proven_for_descent:
        return [f"{update.acts}."]
    means = "gradient descent" if optimizer is Optimizer.SGD else f"AdamW{update.under_adamw}"
    return [f"{update.acts}. Its paper's proofs are for gradient descent. This run used {means}."]


def subject_of(recipe: Recipe, run: RunDirectory) -> Subject:
    """Return a run as a card's subject. recipe: the run's, with the present place of its base."""
    source = find_source(recipe.model.name, recipe.model.revision)
    record = read_json(run.adapter / RECORD) if is_file(run.adapter / RECORD) else {}
    names = record.get("label_names")
    labels = tuple(map(str, names)) if isinstance(names, list) else ()
    return replace(make_subject(recipe, source, read_results(run), labels), made=made_words(run, record))


def made_words(run: RunDirectory, record: Mapping[str, Any]) -> str:
    """Say how an adapter was made that is not the run's own; empty for the run's own."""
    if run.other is None:
        return ""
    try:
        combined = record["combined"]
        of = " and ".join(f"{own['weight']:g} times {own['adapter']}" for own in combined["of"])
        return f"Combined by reflora {__version__} with `--how {combined['how']}`: {of}."
    except (KeyError, TypeError, ValueError):  # an adapter of another origin
        return f"The adapter {last_part(str(run.other))}, with the base and task of a run."


def make_subject(recipe: Recipe, source: Source, results: dict[str, Any] | None, labels: Sequence[str]) -> Subject:
    """Return a card's subject. recipe: with any names; source: that of the base, under the name that was given."""
    return Subject(public_recipe(recipe, source), task_of(recipe.task), source, results, tuple(labels))


def adapter_card(
    subject: Subject,
    config: PeftConfig,
    unreadable: str = "",
    further: Sequence[str] = (),
    asked: Sequence[str] = (),
) -> str:
    """Return the card of an adapter directory.

    unreadable: why PEFT cannot read it; empty if it can. further: more lines on how to load it. asked: the section on
    how it is asked.
    """
    if unreadable:
        remains = subject.recipe.method.layer.not_merged
        use = f"It cannot be merged: {remains}. Use it with `reflora predict RUN`."
        way = use if remains else "Merge it into its base: `reflora merge RUN`."
        load = [f"PEFT does not read this adapter: {unreadable}.", "", way]
        return model_card(subject, "adapter", "reflora", [*load, *asked])
    code = peft_lines(subject.task, subject.source, subject.labels, has_tokenizer=subject.has_tokenizer)
    vllm = vllm_line(subject.recipe.method.layer, config)
    load = [*code, "", vllm, *(further or moved_lines(subject.recipe)), *asked]
    return model_card(subject, "adapter", "peft", load)


def moved_lines(recipe: Recipe) -> list[str]:
    """Say that PEFT computes otherwise where training has moved a quantized base; an export measures how far."""
    if not (recipe.method.start.moves_base and recipe.model.quantization is not Quantization.NONE):
        return []
    what = "Training moved a part of the quantized base into the adapter and quantized the rest again; PEFT does not"
    return ["", f"{what}: `reflora export RUN --format peft` measures the difference; a merge has none."]


def merged_card(recipe: Recipe, run: RunDirectory, directory: Path) -> str:
    """Return the card of a run's merged model. directory: that of the model, with its tokenizer."""
    about = subject_of(recipe, run)
    tokenizer = load_tokenizer(find_source(str(directory), None))
    load = [*transformers_lines(about.task), *asked_section(about.task, tokenizer)]
    return model_card(about, "merged model", "transformers", load)


def asked_section(task: Task, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the card's section on how a language model is asked; nothing for a classifier. tokenizer: the one with
    the chat template that was trained.
    """
    return ["", "## Ask it", "", *card_lines(task.parts, tokenizer)] if task.parts else []


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
