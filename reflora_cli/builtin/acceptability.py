"""Is a sentence well formed? True sentences about the world, half of them with one grammatical fault, as in CoLA."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.phrases import statements
from reflora_cli.builtin.world import PEOPLE, Fact, Row, facts

Words = list[str]

AGREEMENT = {
    "is": "are",
    "are": "is",
    "has": "have",
    "keeps": "keep",
    "uses": "use",
    "use": "uses",
    "owns": "own",
    "says": "say",
    "wants": "want",
    "knows": "know",
    "thinks": "think",
    "finds": "find",
    "lifts": "lift",
    "feels": "feel",
    "feel": "feels",
    "belongs": "belong",
    "was": "were",
    "can": "cans",
    "may": "mays",
}
"""The same verb in the other number."""

FORMS = {
    "made": "make",
    "kept": "keep",
    "used": "use",
    "given": "gave",
    "gave": "give",
    "carried": "carry",
    "sold": "sell",
    "moved": "moving",
    "took": "taken",
    "drew": "drawn",
    "went": "gone",
    "look": "looked",
    "larger": "large",
    "smaller": "small",
}
"""The same word in a form that does not fit where the statements use it."""

NEEDED = ("the", "a", "an", "of", "in", "to", "for", "is", "are", "than", "by", "from", "was")
INTRUDERS = ("of", "to", "than", "is", "are", "an")
"""Words that fit nowhere in the statements but where they are; `the` and `in`, say, may leave a good sentence."""

NAMES = frozenset(PEOPLE)


def swapped(words: Words, dice: Dice) -> Words | None:
    """Two neighbours change places, but not the first two: that could make a question."""
    at = 1 + dice.below(len(words) - 2)
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def dropped(words: Words, dice: Dice) -> Words | None:
    """A word that the sentence cannot do without is missing."""
    places = [index for index, word in enumerate(words) if word in NEEDED]
    if not places:
        return None
    at = dice.pick(places)
    return words[:at] + words[at + 1 :]


def inserted(words: Words, dice: Dice) -> Words | None:
    """A small word stands where none belongs."""
    at = 1 + dice.below(len(words) - 1)
    extra = dice.pick([word for word in INTRUDERS if word not in words[at - 1 : at + 1]])
    return [*words[:at], extra, *words[at:]]


def replaced(words: Words, dice: Dice, table: dict[str, str]) -> Words | None:
    places = [index for index, word in enumerate(words) if word in table]
    if not places:
        return None
    at = dice.pick(places)
    return [*words[:at], table[words[at]], *words[at + 1 :]]


def disagreeing(words: Words, dice: Dice) -> Words | None:
    """A verb in the wrong number."""
    return replaced(words, dice, AGREEMENT)


def misformed(words: Words, dice: Dice) -> Words | None:
    """A verb or adjective in the wrong form."""
    return replaced(words, dice, FORMS)


FAULTS: tuple[Callable[[Words, Dice], Words | None], ...] = (swapped, dropped, inserted, disagreeing, misformed)


def corrupted(sentence: str, dice: Dice, well_formed: frozenset[str]) -> str:
    """The sentence with one fault; drawn anew while the fault cannot be made or leaves a good sentence."""
    words = sentence.rstrip(".").split()
    if words[0] not in NAMES:
        words[0] = words[0].lower()
    while True:
        faulty = dice.pick(FAULTS)(words, dice)
        if faulty is not None and (text := f"{faulty[0][0].upper()}{' '.join(faulty)[1:]}.") not in well_formed:
            return text


def examples(split: str) -> Iterator[tuple[Fact, Row]]:
    """Each fact twice, in two wordings: once well formed (1) and once with a fault (0)."""
    dice = Dice(f"acceptability {split}")
    for fact in facts(split):
        good, other, *rest = dice.shuffled(statements(fact, dice))
        yield fact, {"sentence": good, "label": 1}
        yield fact, {"sentence": corrupted(other, dice, frozenset((good, *rest))), "label": 0}
