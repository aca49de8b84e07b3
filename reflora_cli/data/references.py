"""Rows with several right texts: in training one row for each of them, where they are scored one row for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from reflora_cli.tasks.examples import PromptExample


def divided(examples: Sequence[PromptExample]) -> list[PromptExample]:
    """Return one example for each reference, whose answer it is; examples without references are returned as they
    are.
    """
    return [own for example in examples for own in (alone(example) or [example])]


def alone(example: PromptExample) -> list[PromptExample]:
    lead = example.answer.removesuffix(example.label)
    return [replace(example, answer=lead + text, label=text, references=(text,)) for text in example.references]


def gathered(examples: Sequence[PromptExample]) -> list[PromptExample]:
    """Return one example for each prompt, in the order in which they first appear, with the references of all."""
    found: dict[str, PromptExample] = {}
    for example in examples:
        first = found.setdefault(example.prompt, example)
        if first is not example:
            found[example.prompt] = replace(first, references=first.references + example.references)
    return list(found.values())
