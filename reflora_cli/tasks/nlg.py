"""Texts written from data: E2E (Novikova et al. 2017, arXiv 1706.09254), WebNLG (Gardent et al. 2017), your own.

A row of training has one text; rows to be scored have a list of references, or are several rows with the same input,
which are then gathered. A prompt is the input and ` ||`, the text follows after a space: the line `input||text` of the
data that LoRA was published with (Hu et al. 2021, arXiv 2106.09685). Its code put GPT-2's end token in the place of
`||`, which other models do not have. Triples of WebNLG are written as there: `subject : property : object`, with ` | `
between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from reflora_cli.tasks.base import Answers, PromptExample, PromptTask, Row
from reflora_cli.tasks.prompts import Template
from reflora_cli.tasks.text_scores import TextScores

WORDING = "{instruction} ||"
DATA_TO_TEXT = Template(WORDING, WORDING)


@dataclass(frozen=True)
class TextColumns:
    """The columns of a file with inputs and texts: a row has a text, a list of references, or both."""

    source: str = "input"
    text: str = "text"
    references: str = "references"


def same(text: str) -> str:
    return text


def linear_triples(triples: str) -> str:
    """Return `a : b : c | d : e : f` for the triples `a | b | c && d | e | f`. Raises ValueError for others."""
    parts = [triple.split(" | ") for triple in triples.split(" && ")]
    if any(len(part) != 3 for part in parts):
        raise ValueError("'triples' are not subject | property | object, with && between them")
    return " | ".join(" : ".join(part) for part in parts)


def generation_task(
    name: str,
    columns: TextColumns,
    template: Template = DATA_TO_TEXT,
    written: Callable[[str], str] = same,
) -> PromptTask:
    """Return a task that writes a text after an input, scored by its likeness to reference texts.

    written: the function that makes the input of a prompt from that of a row; it raises ValueError for a bad one.
    """

    def example(row: Row) -> PromptExample:
        prompt = template.fill(written(row[columns.source]), "")
        references = references_of(row, columns)
        return PromptExample(prompt, f" {references[0]}", prompt, label=references[0], references=references)

    return PromptTask(
        name=name,
        source=None,
        fields={columns.source: str},
        optional=(columns.text,),
        references=columns.references,
        example=example,
        template=template,
        answers=Answers.COMPARED,
        tally=TextScores,
        evaluation=("validation",),
    )


def references_of(row: Row, columns: TextColumns) -> tuple[str, ...]:
    """Return the right texts of a row, without white space around them. Raises ValueError if there are none, or one is
    empty.
    """
    text, listed = row.get(columns.text), row.get(columns.references) or []
    texts = [*([text] if text else []), *listed]
    if not texts:
        raise ValueError(f"{columns.text!r} and {columns.references!r} are both missing")
    if not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(f"{columns.references!r} holds something that is not a text, or an empty one")
    return tuple(text.strip() for text in texts)


# Say what a restaurant is like, from up to eight of its properties.
E2E = generation_task("nlg/e2e", TextColumns("meaning"))
# Say what one to seven triples of DBpedia say.
WEBNLG = generation_task("nlg/webnlg", TextColumns("triples"), written=linear_triples)

TASKS = (E2E, WEBNLG)
