"""Make the search by which a language model writes, once: it is tried on the model when it is made."""

from __future__ import annotations

from reflora_cli.model.base import Base
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.generation import Generation, Penalties
from reflora_cli.objectives.references import References
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.recipe.sections import EvalSection


def written_by(section: EvalSection, base: Base, compute: Compute) -> Generation:
    """Return the recipe's search."""
    penalties = Penalties(section.length_penalty, section.no_repeat_ngram)
    return Generation(base, compute, section.num_beams, section.max_new_tokens, penalties, section.cache)


def writer_of(scorer: Scorer, section: EvalSection, base: Base, compute: Compute) -> Generation:
    """Return the recipe's search: that of a scorer made from the same section, if the scorer has answers written."""
    match scorer:
        case Generation():
            return scorer
        case References():
            return scorer.generation
        case _:
            return written_by(section, base, compute)
