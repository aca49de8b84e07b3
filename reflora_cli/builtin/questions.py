"""Multiple-choice questions about the facts: four choices, one right."""

from __future__ import annotations

from collections.abc import Iterator

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.phrases import fill
from reflora_cli.builtin.world import SIZES, Fact, Row, facts, false_values

CHOICES = 4

QUESTIONS: dict[str, tuple[str, str, str]] = {
    "kind": (
        "What is {a thing}?",
        "Which word describes {a thing} best?",
        "What sort of object is the {thing}?",
    ),
    "material": (
        "What is the {thing} made of?",
        "Which material are {things} made of?",
        "From what is {a thing} made?",
    ),
    "place": (
        "Where is the {thing} kept?",
        "In which place does {person} look for the {thing}?",
        "Where do {things} belong?",
    ),
    "use": (
        "What is the {thing} used for?",
        "For what does {person} need {a thing}?",
        "What do people do with {things}?",
    ),
    "colour": (
        "What colour is the {thing}?",
        "Which colour do {things} have?",
        "In which colour did {person} paint the {thing}?",
    ),
    "size": (
        "What size is the {thing}?",
        "How big are {things}?",
        "Which size does {a thing} have?",
    ),
    "ability": (
        "What can the {thing} do?",
        "What may happen to {things}?",
        "What will the {thing} do, as {person} knows?",
    ),
}


def distractors(fact: Fact, dice: Dice) -> list[str]:
    """Three different wrong values."""
    if fact.relation == "size":
        return [size for size in SIZES if size != fact.value]
    return dice.shuffled(sorted(set(false_values(fact))))[: CHOICES - 1]


def examples(split: str) -> Iterator[tuple[Fact, Row]]:
    """Each fact in all its wordings, with the right answer equally often at each position."""
    dice = Dice(f"questions {split}")
    count = 0
    for fact in facts(split):
        for template in QUESTIONS.get(fact.relation, ()):
            answer = count % CHOICES
            choices = distractors(fact, dice)
            choices.insert(answer, fact.value)
            yield fact, {"question": fill(template, fact, dice), "choices": choices, "answer": answer}
            count += 1
