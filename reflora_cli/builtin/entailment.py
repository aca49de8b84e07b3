"""Does the second sentence follow from the first? Label 0 where it does and 1 where it does not, as in RTE.

The premise alone is not enough for most rows: what a thing is like has to be known from the world.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.phrases import fill
from reflora_cli.builtin.world import Fact, Row, facts, false_values


class Frame(NamedTuple):
    """A premise and what follows from it. What does not follow is the hypothesis with a false value ..."""

    premise: str
    hypothesis: str
    otherwise: str = ""
    """... or this sentence, where it is given."""


FRAMES: dict[str, tuple[Frame, ...]] = {
    "kind": (
        Frame("{Person} bought {a thing}.", "{Person} bought {a value}."),
        Frame("{Person} has lost {a thing}.", "{Person} has lost {a value}."),
    ),
    "material": (
        Frame("{Person} touched the {thing}.", "{Person} touched something made of {value}."),
        Frame("{Person} found {a thing}.", "{Person} found something made of {value}."),
    ),
    "place": (
        Frame("{Person} put the {thing} where it belongs.", "The {thing} is in the {value}."),
        Frame("{Person} is standing near the {thing}.", "{Person} is in the {value}."),
    ),
    "use": (
        Frame("{Person} has brought {a thing}.", "{Person} has something for {value}."),
        Frame("{Person} borrowed the {thing}.", "{Person} is ready for {value}."),
    ),
    "colour": (
        Frame("{Person} looked at the {thing}.", "{Person} looked at something {value}."),
        Frame("{Person} found {a thing}.", "{Person} found something {value}."),
    ),
    "size": (
        Frame("{Person} looked at the {thing}.", "{Person} looked at something {value}."),
        Frame("{Person} bought {a thing}.", "{Person} bought a {value} object."),
    ),
    "weight": (
        Frame("{Person} lifted the {thing}.", "{Person} lifted something {value}."),
        Frame("{Person} is holding {a thing}.", "{Person} is holding something {value}."),
    ),
    "ability": (
        Frame("{Person} has {a thing}.", "{Person} has something that can {value}."),
        Frame("{Person} bought the {thing}.", "{Person} bought something that can {value}."),
    ),
    "smaller": (
        Frame("{Person} has a box for {a thing}.", "The box is larger than {a value}."),
        Frame("{Person} looked at the {thing}.", "{Person} looked at something larger than the {value}."),
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


def pair(fact: Fact, frame: Frame, follows: bool, seed: str) -> Row:
    """One row; both sentences draw their people from the same seed, so that they speak of the same people."""
    premise = fill(frame.premise, fact, Dice(seed))
    if follows:
        hypothesis = fill(frame.hypothesis, fact, Dice(seed))
    elif frame.otherwise:
        hypothesis = fill(frame.otherwise, fact, Dice(seed))
    else:
        value = Dice(f"{seed} false").pick(false_values(fact))
        hypothesis = fill(frame.hypothesis, fact, Dice(seed), value)
    return {"premise": premise, "hypothesis": hypothesis, "label": 0 if follows else 1}


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
