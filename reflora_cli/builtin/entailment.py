"""Does the second sentence follow from the first? Label 0 where it does and 1 where it does not, as in RTE.

The premise decides, with the regularities of the world: what glass can do, which sizes exclude each other, who has what
has been given. The hypothesis alone says next to nothing: its wordings occur under both labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.objects import ABILITIES
from reflora_cli.builtin.phrases import fillers, with_article
from reflora_cli.builtin.world import Fact, Row, facts, false_values


class Frame(NamedTuple):
    """A premise, a sentence that follows from it, and one that does not."""

    premise: str
    hypothesis: str
    otherwise: str


FRAMES: dict[str, tuple[Frame, Frame]] = {
    "kind": (
        Frame("Every {thing} is {a value}.", "{A thing} is {a value}.", "{A thing} is not {a value}."),
        Frame("No {thing} is {a false}.", "{A thing} is not {a false}.", "{A thing} is {a false}."),
    ),
    "material": (
        Frame("The {thing} is made of {value}.", "The {thing} can {ability}.", "The {thing} can {inability}."),
        Frame("{Person} has {a thing} made of {value}.", "It can {ability}.", "It can {inability}."),
    ),
    "place": (
        Frame(
            "{Person} put the {thing} back in the {value}.",
            "The {thing} is in the {value}.",
            "The {thing} is not in the {value}.",
        ),
        Frame(
            "{Person} did not find the {thing} in the {value}.",
            "The {thing} is not in the {value}.",
            "The {thing} is in the {value}.",
        ),
    ),
    "use": (
        Frame("People use {things} for {value}.", "{A thing} is for {value}.", "{A thing} is not for {value}."),
        Frame("No {thing} is used for {false}.", "{A thing} is not for {false}.", "{A thing} is for {false}."),
    ),
    "colour": (
        Frame("{Person} painted the {thing} {value}.", "The {thing} is {value}.", "The {thing} is not {value}."),
        Frame("{Things} are not {false}.", "The {thing} is not {false}.", "The {thing} is {false}."),
    ),
    "size": (
        Frame("The {thing} is a {value} object.", "The {thing} is {rough}.", "The {thing} is {false}."),
        Frame("{Person} drew a {value} {thing}.", "The {thing} is not {false}.", "The {thing} is not {value}."),
    ),
    "weight": (
        Frame("{Person} lifts a {value} {thing}.", "The {thing} feels {value}.", "The {thing} feels {false}."),
        Frame("The {thing} is {value} to carry.", "The {thing} is not {false}.", "The {thing} is not {value}."),
    ),
    "ability": (
        Frame("The {thing} can {value}.", "It may {value}.", "It may not {value}."),
        Frame("{Person} knows that the {thing} will not {false}.", "It may not {false}.", "It may {false}."),
    ),
    "smaller": (
        Frame(
            "The {thing} is larger than the {value}.",
            "The {value} is smaller than the {thing}.",
            "The {value} is larger than the {thing}.",
        ),
        Frame(
            "The {value} is smaller than the {thing}.",
            "The {thing} is larger than the {value}.",
            "The {thing} is smaller than the {value}.",
        ),
    ),
    "owner": (
        Frame("{Person} gave the {thing} to {value}.", "{Value} has the {thing} now.", "{Person} has the {thing} now."),
        Frame(
            "{Person} got the {thing} from {value}.", "{Person} has the {thing} now.", "{Value} has the {thing} now."
        ),
    ),
    "moved": (
        Frame(
            "{Person} took the {thing} to the {value}.",
            "The {thing} is in the {value}.",
            "The {thing} is not in the {value}.",
        ),
        Frame(
            "{Person} took the {thing} away from the {value}.",
            "The {thing} is not in the {value}.",
            "The {thing} is in the {value}.",
        ),
    ),
}

ROUGHLY = {"tiny": "small", "huge": "large"}


def pair(fact: Fact, frame: Frame, follows: bool, seed: str) -> Row:
    """One row; the words of both sentences are drawn once, so that they speak of the same people."""
    dice = Dice(seed)
    abilities = sorted({ability for pair in ABILITIES.values() for ability in pair})
    false = dice.pick(false_values(fact))
    words = fillers(fact, dice) | {
        "false": false,
        "a false": with_article(false),
        "rough": ROUGHLY.get(fact.value, fact.value),
        "ability": dice.pick(fact.thing.abilities),
        "inability": dice.pick([ability for ability in abilities if ability not in fact.thing.abilities]),
    }
    hypothesis = frame.hypothesis if follows else frame.otherwise
    return {
        "premise": frame.premise.format_map(words),
        "hypothesis": hypothesis.format_map(words),
        "label": 0 if follows else 1,
    }


def examples(split: str) -> Iterator[tuple[Fact, Row]]:
    """Each fact twice, in either frame: once entailed and once not."""
    dice = Dice(f"entailment {split}")
    seen: set[str] = set()
    for fact in facts(split):
        for frame, follows in zip(dice.shuffled(FRAMES[fact.relation]), (True, False), strict=True):
            # Two facts about one thing can lead to the same false sentence: people are drawn anew until it is not.
            row = pair(fact, frame, follows, str(dice.below(10**6)))
            while str(row) in seen:
                row = pair(fact, frame, follows, str(dice.below(10**6)))
            seen.add(str(row))
            yield fact, row
