"""Write into a recipe the text of the chat template that it names as a file: the file may be lost, the run has it."""

from __future__ import annotations

from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.chat_templates import kept_template


def with_template(recipe: Recipe) -> Recipe:
    """Return the recipe with the text of its template's file. Raises InputError for a template that cannot be read."""
    section = recipe.task
    if section.template is None:
        return recipe
    return recipe.model_copy(update={"task": section.model_copy(update={"template": kept_template(section.template)})})
