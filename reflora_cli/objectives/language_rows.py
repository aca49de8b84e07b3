"""Load and encode the rows of a language model's task or mixture.

In training either held-out training rows are scored by their loss, as in the published commonsense runs, or every
task's evaluation splits are scored as the task says: by a protocol, by comparison with references, or by their loss.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from reflora_cli.data.chat_text import ChatTemplate
from reflora_cli.data.encode_chats import asked_tokens, encode_examples
from reflora_cli.data.encode_prompts import PromptRow
from reflora_cli.data.load import form_of, layout_in, load_divided_prompts, load_mixture, load_prompts
from reflora_cli.data.references import divided, gathered
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.extras import EXTRAS
from reflora_cli.model.base import Base, positions
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.rows import (
    HELD_OUT,
    PROBED,
    Examples,
    Rows,
    kept_examples,
    refuse_one_file,
    wants_evaluation,
)
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.base import Answers, LanguageTask, PromptTask
from reflora_cli.tasks.chat_templates import TEMPLATES
from reflora_cli.tasks.examples import PromptExample


def language_examples(recipe: Recipe, task: LanguageTask) -> Examples:
    """Return the training rows and, unless evaluation is off, the rows that are scored."""
    section = recipe.task
    if wants_evaluation(recipe) and (found := divided_examples(recipe, task.parts[0])):
        return found
    training = divided(load_mixture(task, section.data, section.max_train_rows))
    if section.validation_rows is not None:
        # Without evaluations too: they are what `reflora eval` scores afterwards.
        kept, held_out = hold_out(training, section.validation_rows)
        return {task.train: kept, HELD_OUT: held_out} if wants_evaluation(recipe) else {task.train: kept}
    if not wants_evaluation(recipe):
        return {task.train: training}
    refuse_one_file(recipe)
    examples = {task.train: training}
    for name, part, split in parts_to_score(task, None):
        examples[name] = load_scored(part, section.data, split, section.max_eval_rows)
    return examples


def divided_examples(recipe: Recipe, task: PromptTask) -> Examples:
    """Return the rows of a task that holds rows out, learned from and scored, read once; nothing for other tasks."""
    section = recipe.task
    parts = load_divided_prompts(task, section.data)
    if parts is None:
        return {}
    training, held_out = parts
    scored = as_scored(task, held_out)[: section.max_eval_rows]
    return {task.train: divided(training[: section.max_train_rows]), **dict.fromkeys(task.evaluation, scored)}


def load_scored(task: PromptTask, data: str, split: str, limit: int | None) -> list[PromptExample]:
    """Return the first `limit` rows of a split as they are scored: of rows that are compared, each prompt once.

    Raises InputError when the libraries are missing that compare texts.
    """
    is_compared = task.answers is Answers.COMPARED  # then several rows may be one
    return as_scored(task, load_prompts(task, data, split, None if is_compared else limit))[:limit]


def as_scored(task: PromptTask, examples: list[PromptExample]) -> list[PromptExample]:
    """Return rows as they are scored. Raises InputError when the libraries are missing that compare texts."""
    if task.answers is not Answers.COMPARED:
        return examples
    EXTRAS["nlg"].require()
    return gathered(examples)


def parts_to_score(task: LanguageTask, split: str | None) -> list[tuple[str, PromptTask, str]]:
    """Return (name, task, split) of all that is scored; the name is the split's for one task, else the task's."""
    found = [(part, name) for part in task.parts for name in ((split,) if split else part.evaluation)]
    single = len(task.parts) == 1
    return [(name if single else part.short, part, name) for part, name in found]


def hold_out(examples: list[PromptExample], count: int) -> tuple[list[PromptExample], list[PromptExample]]:
    """Divide the examples into all but `count` and those `count`, drawn at random but the same for every seed of a
    run.
    """
    if count >= len(examples):
        where, found = "task.validation_rows", f"{count} of {len(examples)} training rows"
        raise InputError(Problem("no training rows would be left", where, found, f"fewer than {len(examples)}"))
    chosen = set(random.Random(0).sample(range(len(examples)), count))
    kept = [example for index, example in enumerate(examples) if index not in chosen]
    return kept, [examples[index] for index in sorted(chosen)]


def held_out_examples(recipe: Recipe, task: LanguageTask) -> list[PromptExample] | None:
    """Return the training rows that a run held out; None if it held out none."""
    section = recipe.task
    if section.validation_rows is None:
        return None
    training = divided(load_mixture(task, section.data, section.max_train_rows))
    return hold_out(training, section.validation_rows)[1]


def language_splits(
    recipe: Recipe, task: LanguageTask, base: Base, split: str | None, limit: int | None
) -> Iterator[Split]:
    """Yield what an evaluation scores, part by part: examples to be answered, encoded rows where there is only a loss.

    Free text is scored on the rows that training held out, if no split is asked for: there may be no other rows at all.
    """
    section, limit = recipe.task, limit or recipe.task.max_eval_rows
    for name, part, own in parts_to_score(task, split):
        if part.answers is not Answers.LOSS:
            scored = load_scored(part, section.data, own, limit)
            yield Split(name, scored, part, own, asked=asked_rows(recipe, base, scored))
            continue
        held_out = held_out_examples(recipe, part) if split is None else None
        examples = (held_out or load_prompts(part, section.data, own, limit))[:limit]
        encoded = encode_examples(base.tokenizer, examples, section.max_length, train_on_prompt=section.learns_all)
        asked = asked_rows(recipe, base, examples)
        yield Split(name, encoded.rows, data_split=own, dropped=encoded.dropped, asked=asked)


def language_rows(recipe: Recipe, task: LanguageTask, base: Base, examples: Examples) -> Rows:
    """Return the examples, encoded if their loss is wanted, and as they are for the protocols."""
    section = recipe.task

    def encoded(name: str) -> tuple[list[PromptRow], int]:
        found = encode_examples(base.tokenizer, examples[name], section.max_length, train_on_prompt=section.learns_all)
        return found.rows, found.dropped

    def asked(name: str) -> list[PromptExample]:
        return asked_rows(recipe, base, examples[name])

    training, dropped = encoded(task.train)
    facts = {**file_facts(recipe, task), **chat_facts(recipe, task, base)}
    if section.validation_rows is not None and HELD_OUT in examples:
        return Rows(training, [Split(HELD_OUT, encoded(HELD_OUT)[0], asked=asked(HELD_OUT))], dropped, facts)
    splits = [
        Split(name, encoded(name)[0], asked=asked(name))
        if part.answers is Answers.LOSS
        else Split(name, examples[name], part, asked=asked(name))
        for name, part, _ in parts_to_score(task, None)
        if name in examples
    ]
    return Rows(training, splits, dropped, facts)


def asked_rows(recipe: Recipe, base: Base, examples: Sequence[PromptExample]) -> list[PromptExample]:
    """Return the first rows, as many as the recipe wants to see answered, without those that have nothing to ask."""
    first = examples[: recipe.eval.samples]
    return [example for example, ids in zip(first, asked_tokens(base.tokenizer, first), strict=True) if ids]


def chat_facts(recipe: Recipe, task: LanguageTask, base: Base) -> dict[str, str]:
    """Return what the user should see of rows that a chat template puts; nothing of other rows."""
    part = task.parts[0]
    if not part.by_chat_template:
        return {}
    section, end = recipe.task, ChatTemplate(base.tokenizer).end()
    own = "the tokenizer's"
    if section.template is not None:
        own = section.template if section.template in TEMPLATES else "the recipe's"
        own += ", instead of the tokenizer's own" if base.lost_template else ""
    unended = "; it ends answers with no special token, so generated answers do not end by themselves"
    layout = layout_in(section.data, part, part.train)
    return {**({"rows": layout} if layout else {}), "chat template": own + ("" if end else unended)}


def file_facts(recipe: Recipe, task: LanguageTask) -> dict[str, str]:
    """Return how the file of a task of the user's own was read; nothing for other tasks."""
    part = task.parts[0]
    form = form_of(recipe.task.data, part, part.train) if part.keys else ""
    return {"file": form} if form else {}


def language_probe(recipe: Recipe, task: LanguageTask, base: Base, kept: Path | None) -> list[PromptRow]:
    """Return the rows that a run has kept, or else some that are scored in training, or else some training rows."""
    section, part = recipe.task, task.parts[0]
    if kept and (found := kept_examples(kept, PromptExample)):
        examples = found
    elif section.validation_rows is None and wants_evaluation(recipe):
        examples = load_prompts(part, section.data, part.evaluation[0], PROBED)
    else:
        examples = load_mixture(task, section.data, PROBED)[:PROBED]
    return encode_examples(base.tokenizer, examples, positions(base), train_on_prompt=False).rows


def main_metric(recipe: Recipe, task: LanguageTask) -> str:
    """Return the score that in training tells a better model from a worse one: `loss` where there is no other."""
    answering = [part for part in task.parts if part.answers is not Answers.LOSS]
    return answering[0].main_metric if answering and recipe.task.validation_rows is None else "loss"
