"""Settle with which chat template, if any, a new run puts its rows.

The text of a template's file goes into the run's recipe: the file may be lost, the run has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.load import load_tokenizer, loading_errors, quiet_transformers
from reflora_cli.model.sources import find_source
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.tasks.chat_templates import kept_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def with_template(recipe: Recipe) -> Recipe:
    """Return the recipe with the text of its template's file. Raises InputError for a template that cannot be read."""
    section = recipe.task
    if section.template is None:
        return recipe
    return recipe.model_copy(update={"task": section.model_copy(update={"template": kept_template(section.template)})})


def refuse_unchosen_prompt(recipe: Recipe, section: ModelSection) -> None:
    """Raises InputError for a new run whose rows may be put by a chat template or without, and whose recipe does not
    say how. section: the base, where it is. Runs that are older than the choice have made it: they are continued.
    """
    if not leaves_prompt_open(recipe):
        return
    source = find_source(section.name, section.revision)
    with quiet_transformers(), loading_errors(source):
        tokenizer = load_tokenizer(source)
    refuse_prompt_of(recipe, tokenizer)


def leaves_prompt_open(recipe: Recipe) -> bool:
    """Whether rows may be put by a chat template or without, and the recipe does not say how."""
    can_choose = any(part.example_by_template is not None for part in task_of(recipe.task).parts)
    return recipe.task.prompt is None and can_choose


def refuse_prompt_of(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError for a recipe that leaves open what its tokenizer, which has a chat template, makes a choice."""
    if leaves_prompt_open(recipe) and tokenizer.chat_template:
        what = "the model has a chat template, and task.prompt does not say whether to use it"
        remedy = (
            "task.prompt=template puts them as turns of a user and an assistant, as a chat model expects them; "
            "task.prompt=alpaca puts Alpaca's wording around them, without the template"
        )
        raise InputError(Problem(what, "task.prompt", "null", "template or alpaca", remedy))
