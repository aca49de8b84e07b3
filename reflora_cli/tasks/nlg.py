"""Texts written from data: E2E (Novikova et al. 2017, arXiv 1706.09254), WebNLG (Gardent et al. 2017), your own.

A row of training has one text; rows to be scored have a list of references, or are several rows with the same input,
which are then gathered. A prompt is the input and ` ||`, the text follows after a space: the line `input||text` of the
data that LoRA was published with (Hu et al. 2021, arXiv 2106.09685). Its code put GPT-2's end token in the place of
`||`, which other models do not have. Triples of WebNLG are written as there: `subject : property : object`, with ` | `
between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from reflora_cli.tasks.base import Answers, PromptTask
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.text_scores import MAIN, TextScores
from reflora_cli.tasks.wording import Wording


@dataclass(frozen=True)
class TextColumns:
    """The columns of the right texts: a row has a text (or a list of texts), a list of references, or both.

    references: no column if it is empty.
    """

    text: str = "text"
    references: str = "references"


def linear_triples(triples: str) -> str:
    """Return `a : b : c | d : e : f` for the triples `a | b | c && d | e | f`. Raises ValueError for others."""
    parts = [triple.split(" | ") for triple in triples.split(" && ")]
    if any(len(part) != 3 for part in parts):
        raise ValueError("'triples' are not subject | property | object, with && between them")
    return " | ".join(" : ".join(part) for part in parts)


def generation_task(
    name: str,
    wording: Wording,
    columns: TextColumns = TextColumns(),
    metric: str = MAIN,
    held_out: int | str | None = None,
) -> PromptTask:
    """Return a task that writes a text after a prompt, scored by its likeness to reference texts.

    metric: the score by which the best adapter is chosen. held_out: the share or number of inputs that are held out of
    the training rows.
    """

    def example(row: Row) -> PromptExample:
        prompt = wording.fill(row)
        references = references_of(row, columns)
        answer = wording.lead + references[0]
        return PromptExample(prompt, answer, prompt, label=references[0], references=references)

    return PromptTask(
        name=name,
        source=None,
        fields=dict.fromkeys(wording.columns, str),
        answer=columns.text,
        references=columns.references,
        example=example,
        template=wording.template,
        wording=wording,
        answers=Answers.COMPARED,
        tally=partial(TextScores, main=metric),
        held_out=held_out,
        evaluation=("validation",),
    )


def references_of(row: Row, columns: TextColumns) -> tuple[str, ...]:
    """Return the right texts of a row, without white space around them. Raises ValueError if there are none, or one is
    empty.
    """
    found, listed = row.get(columns.text) or [], row.get(columns.references) or []
    texts = [*(found if isinstance(found, list) else [found]), *listed]
    named = [name for name in (columns.text, columns.references) if name]
    if not texts:
        missing = " and ".join(map(repr, named)) + (" are both missing" if len(named) > 1 else " is missing")
        raise ValueError(missing)
    if not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(f"{named[-1]!r} holds something that is not a text, or an empty one")
    return tuple(text.strip() for text in texts)


# Say what a restaurant is like, from up to eight of its properties.
E2E = generation_task("nlg/e2e", Wording("{meaning} ||"))
# Say what one to seven triples of DBpedia say.
WEBNLG = generation_task("nlg/webnlg", Wording("{triples} ||", linear_triples))

TASKS = (E2E, WEBNLG)
