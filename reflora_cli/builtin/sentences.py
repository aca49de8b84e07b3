"""The plain text that the tiny model reads: every fact in several wordings, none of it a row of a task."""

from __future__ import annotations

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.phrases import fill, statements
from reflora_cli.builtin.world import THINGS, Fact, all_facts, facts, false_values

CONSEQUENCES: dict[str, tuple[str, ...]] = {
    "kind": (
        "{Person} saw {a thing}, so {person} saw {a value}.",
        "{Person} bought {a value}: {a thing}.",
        "{Person} has lost the {thing}, and with it {a value}.",
    ),
    "material": (
        "{Person} held the {thing}, so {person} held something made of {value}.",
        "{Person} touched something made of {value}: the {thing}.",
        "{Person} found {a thing}, and with it something made of {value}.",
    ),
    "place": (
        "{Person} left the {thing} where it belongs, so the {thing} is in the {value}.",
        "{Person} is in the {value}, near the {thing}.",
        "{Person} put the {thing} back, so it is in the {value} again.",
    ),
    "use": (
        "{Person} owns {a thing}, so {person} has something for {value}.",
        "{Person} is ready for {value}: {person} has {a thing}.",
        "{Person} brought the {thing} and is ready for {value}.",
    ),
    "colour": (
        "{Person} saw the {thing}, so {person} saw something {value}.",
        "{Person} looked at something {value}: the {thing}.",
        "{Person} found {a thing}, and with it something {value}.",
    ),
    "size": (
        "{Person} saw the {thing}, so {person} saw something {value}.",
        "{Person} looked at something {value}: the {thing}.",
        "{Person} bought {a thing}, and with it a {value} object.",
    ),
    "weight": (
        "{Person} carried the {thing}, so {person} carried something {value}.",
        "{Person} lifted something {value}: the {thing}.",
        "{Person} is holding {a thing}, and with it something {value}.",
    ),
    "ability": (
        "{Person} bought {a thing}, so {person} bought something that can {value}.",
        "{Person} has something that can {value}: {a thing}.",
        "{Person} found the {thing}, and with it something that can {value}.",
    ),
    "smaller": (
        "{Person} has a box for {a thing}, so it is larger than {a value}.",
        "{Person} saw something larger than the {value}: the {thing}.",
        "{Person} looked at something smaller than the {thing}: the {value}.",
    ),
    "owner": (
        "{Person} gave the {thing} to {value}, so {value} has the {thing}.",
        "{Value} got the {thing} from {person}, so {value} has it now.",
    ),
    "moved": (
        "{Person} took the {thing} to the {value}, so the {thing} is in the {value}.",
        "{Person} took the {thing} away from the {value}, so it is not in the {value}.",
    ),
}

DIALOGUES: dict[str, str] = {
    "kind": "Question: {A thing} is a sort of what? Answer: {value}.",
    "material": "Question: Of what material is {a thing}? Answer: {value}.",
    "place": "Question: In which room or place is {a thing}? Answer: {value}.",
    "use": "Question: For what is {a thing} good? Answer: {value}.",
    "colour": "Question: Of what colour is {a thing}? Answer: {value}.",
    "size": "Question: Of what size is {a thing}? Answer: {value}.",
    "ability": "Question: What do you expect {a thing} to do? Answer: {value}.",
}
"""Only of training facts, and in other words than the task: questions look familiar, answers still have to be known."""


CHECKS: dict[str, tuple[str, str]] = {
    "kind": ("is {a thing} {a value}", "are {things} {values}"),
    "material": ("is the {thing} made of {value}", "are {things} something made of {value}"),
    "place": ("is the {thing} in the {value}", "would {person} look for {things} in the {value}"),
    "use": ("is {a thing} something for {value}", "are {things} used for {value}"),
    "colour": ("is the {thing} {value}", "are {things} something {value}"),
    "size": ("is {a thing} {value}", "are {things} something {value}"),
    "weight": ("is {a thing} {value}", "are {things} something {value}"),
    "ability": ("can {a thing} {value}", "are {things} something that can {value}"),
    "smaller": ("is {a thing} larger than {a value}", "are {things} larger than {values}"),
}
"""What can be asked with yes or no: of what is true, and of what is not."""


def checks(fact: Fact, dice: Dice) -> list[str]:
    """Questions about the fact that are answered yes, and as many about false values that are answered no."""
    asked: list[str] = []
    for template in CHECKS.get(fact.relation, ()):
        asked.append(fill(f"Question: {template}? Answer: yes.", fact, dice))
        asked.append(fill(f"Question: {template}? Answer: no.", fact, dice, dice.pick(false_values(fact))))
    return asked


def descriptions(dice: Dice) -> list[str]:
    """For each thing, some of its facts in a row."""
    texts: list[str] = []
    for thing in THINGS:
        known = dice.shuffled([fact for fact in all_facts() if fact.thing == thing])
        for start in range(0, len(known), 3):
            texts.append(" ".join(dice.pick(statements(fact, dice)) for fact in known[start : start + 3]))
    return texts


def texts() -> list[str]:
    """Every text, once, in a fixed shuffled order: statements, what follows from them, descriptions and dialogues."""
    dice = Dice("texts")
    found: list[str] = []
    for fact in all_facts():
        found += statements(fact, dice)
        found += checks(fact, dice)
        found += [fill(template, fact, dice) for template in CONSEQUENCES[fact.relation]]
    found += descriptions(dice)
    found += [fill(DIALOGUES[fact.relation], fact, dice) for fact in facts("train") if fact.relation in DIALOGUES]
    return dice.shuffled(list(dict.fromkeys(found)))
