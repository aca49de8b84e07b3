"""A small closed world: things, what is true of them, and two things that happened to each.

Every statement anywhere in `builtin` goes back to one `Fact`. A fact belongs to one split for good, so that rows for
validation are never about a fact that occurs in training rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.objects import ABILITIES, TABLE

Row = dict[str, str | int | list[str]]
"""One row of a task: column name -> value."""

SPLITS = ("train", "validation")
VALIDATION_SHARE = 7
"""One fact in seven, within each relation, is kept for validation."""

PEOPLE = ("Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Gus", "Hana", "Ivan", "Judy", "Kurt", "Lena")

COLUMNS = ("material", "place", "colour", "size", "weight", "use")
SIZES = ("tiny", "small", "large", "huge")
OPPOSITES = {
    "tiny": ("large", "huge"),
    "small": ("large", "huge"),
    "large": ("tiny", "small"),
    "huge": ("tiny", "small"),
    "light": ("heavy",),
    "heavy": ("light",),
}
"""A huge thing is also a large one: only these are surely false of a thing of that size or weight."""

RELATIONS = ("kind", *COLUMNS, "ability", "smaller", "owner", "moved")
"""smaller: another thing that is smaller; owner: to whom it was given; moved: the place it was carried to."""


@dataclass(frozen=True)
class Thing:
    """A kind of object, such as hammer, with the values of its columns by name."""

    name: str
    kind: str
    columns: tuple[str, ...]

    def __getitem__(self, column: str) -> str:
        return self.kind if column == "kind" else self.columns[COLUMNS.index(column)]

    @property
    def abilities(self) -> tuple[str, str]:
        return ABILITIES[self["material"]]


@dataclass(frozen=True)
class Fact:
    """`value` is true of `thing` under `relation`."""

    thing: Thing
    relation: str
    value: str


def parse(table: str) -> tuple[Thing, ...]:
    """Things from lines indented under their kind."""
    things: list[Thing] = []
    kind = ""
    for line in table.strip().splitlines():
        name, *columns = line.split(None, len(COLUMNS))
        if columns:
            things.append(Thing(name, kind, tuple(columns)))
        else:
            kind = name
    return tuple(things)


THINGS = parse(TABLE)


@lru_cache
def values(relation: str) -> tuple[str, ...]:
    """All values of a relation, one for each thing that has it: common values come up more often."""
    return tuple(fact.value for fact in all_facts() if fact.relation == relation)


def false_values(fact: Fact) -> tuple[str, ...]:
    """Values that make a fact false, as frequent as they are in the world."""
    if fact.value in OPPOSITES:
        return OPPOSITES[fact.value]
    if fact.relation == "smaller":
        return no_smaller_things(fact.thing)
    true = fact.thing.abilities if fact.relation == "ability" else (fact.value,)
    return tuple(value for value in values(fact.relation) if value not in true)


def smaller_things(thing: Thing) -> tuple[str, ...]:
    return tuple(other.name for other in THINGS if SIZES.index(other["size"]) < SIZES.index(thing["size"]))


def no_smaller_things(thing: Thing) -> tuple[str, ...]:
    """The larger things; for the largest, those as large."""
    level = min(SIZES.index(thing["size"]) + 1, len(SIZES) - 1)
    return tuple(other.name for other in THINGS if SIZES.index(other["size"]) >= level and other != thing)


@lru_cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact of the world, relation by relation."""
    dice = Dice("events")
    facts = [Fact(thing, column, thing[column]) for column in ("kind", *COLUMNS) for thing in THINGS]
    facts += [Fact(thing, "ability", ability) for thing in THINGS for ability in thing.abilities]
    for thing in THINGS:
        if smaller := smaller_things(thing):
            facts.append(Fact(thing, "smaller", dice.pick(smaller)))
    facts += [Fact(thing, "owner", dice.pick(PEOPLE)) for thing in THINGS]
    places = sorted({thing["place"] for thing in THINGS})
    facts += [
        Fact(thing, "moved", dice.pick([place for place in places if place != thing["place"]])) for thing in THINGS
    ]
    return tuple(facts)


@lru_cache
def facts(split: str) -> tuple[Fact, ...]:
    """The facts of one split, in a fixed shuffled order; KeyError for an unknown split."""
    if split not in SPLITS:
        raise KeyError(split)
    chosen: list[Fact] = []
    for relation in RELATIONS:
        order = Dice(f"split {relation}").shuffled([fact for fact in all_facts() if fact.relation == relation])
        held_out = len(order) // VALIDATION_SHARE
        chosen += order[:held_out] if split == "validation" else order[held_out:]
    return tuple(Dice(f"order {split}").shuffled(chosen))
