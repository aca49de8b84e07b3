"""How a fact is said in plain English."""

from __future__ import annotations

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.world import PEOPLE, Fact

STATEMENTS: dict[str, tuple[str, ...]] = {
    "kind": (
        "{A thing} is {a value}.",
        "Every {thing} is {a value}.",
        "{Things} are {values}.",
        "{Person} says that {things} are {values}.",
        "{Person} wants {a value}, so {person} wants {a thing}.",
    ),
    "material": (
        "The {thing} is made of {value}.",
        "{Things} are made of {value}.",
        "{Person} has {a thing} made of {value}.",
        "Most {things} are made of {value}.",
        "{A thing} is made of {value}, as {person} knows.",
    ),
    "place": (
        "The {thing} is kept in the {value}.",
        "{Things} are kept in the {value}.",
        "{Person} keeps the {thing} in the {value}.",
        "The {thing} belongs in the {value}.",
        "{Person} went to the {value} to look for the {thing}.",
    ),
    "use": (
        "The {thing} is used for {value}.",
        "{Things} are used for {value}.",
        "People use {a thing} for {value}.",
        "{Person} uses the {thing} for {value}.",
        "{Person} cannot find the {thing} for {value}.",
    ),
    "colour": (
        "The {thing} is {value}.",
        "{Things} are {value}.",
        "{Person} owns a {value} {thing}.",
        "The {value} {thing} belongs to {person}.",
        "{Person} painted the {thing} {value}.",
    ),
    "size": (
        "The {thing} is a {value} object.",
        "{Things} are {value} objects.",
        "{Person} drew a {value} {thing}.",
        "{A thing} is {value} in size.",
        "{Person} thinks that the {thing} is {value}.",
    ),
    "weight": (
        "The {thing} feels {value}.",
        "{Things} feel {value}.",
        "{Person} lifts a {value} {thing}.",
        "{A thing} is {value} to carry.",
        "{Person} finds the {thing} very {value}.",
    ),
    "ability": (
        "The {thing} can {value}.",
        "{Things} can {value}.",
        "{Person} saw the {thing} {value}.",
        "{A thing} may {value} one day.",
        "{Person} knows that the {thing} will {value}.",
    ),
    "smaller": (
        "The {thing} is larger than the {value}.",
        "The {value} is smaller than the {thing}.",
        "{Things} are larger than {values}.",
        "{Values} are smaller than {things}.",
        "{Person} knows that {a thing} is larger than {a value}.",
    ),
    "owner": (
        "{Person} gave the {thing} to {value}.",
        "{value} got the {thing} from {person}.",
        "The {thing} was given to {value} by {person}.",
        "{Person} has sold {value} the {thing}.",
        "{value} has the {thing} now.",
    ),
    "moved": (
        "{Person} took the {thing} to the {value}.",
        "The {thing} was carried to the {value} by {person}.",
        "{Person} left the {thing} in the {value}.",
        "Somebody has moved the {thing} to the {value}.",
        "{Person} and {other} brought the {thing} to the {value}.",
    ),
}


def with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith(('ute', 'uni')) else 'a'} {noun}"


def plural(noun: str) -> str:
    """Regular plurals; the objects and kinds of the world have no others, except `-f` in shelf and scarf."""
    if noun.endswith(("s", "x", "sh", "ch")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun[:-1]}ves" if noun.endswith("f") and not noun.endswith("oof") else f"{noun}s"


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def fillers(fact: Fact, dice: Dice, value: str | None = None) -> dict[str, str]:
    """What stands for the blanks of a template; people are drawn, never the value itself."""
    thing, value = fact.thing.name, value or fact.value
    person, other = dice.shuffled([name for name in PEOPLE if name not in (fact.value, value)])[:2]
    words = {"thing": thing, "a thing": with_article(thing), "things": plural(thing), "person": person, "other": other}
    words |= {"value": value, "a value": with_article(value), "values": plural(value)}
    return words | {capital(name): capital(word) for name, word in words.items()}


def fill(template: str, fact: Fact, dice: Dice, value: str | None = None) -> str:
    """A template about a fact, or about `value` in place of what is true."""
    return template.format_map(fillers(fact, dice, value))


def statements(fact: Fact, dice: Dice) -> list[str]:
    """The fact in each of its wordings."""
    return [fill(template, fact, dice) for template in STATEMENTS[fact.relation]]
