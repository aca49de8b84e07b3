"""Tell users how to ask an exported language model as it was trained: a chat template, Ollama's Modelfile, the card.

A base's own chat template is left out: training never used it, and programs that find it in the file would ask by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.prompts import Template

PLACE = "{instruction}"


@dataclass(frozen=True)
class Asking:
    """What is written around a question. head and tail: the texts before and after it. end: the text of the end token.

    with_input: the prompt of a question with further input, if training has another one for it. wording: the prompt of
    training with columns in braces, if it has several: then the question is the whole prompt.
    """

    head: str
    tail: str
    end: str | None
    with_input: str = ""
    wording: str = ""

    @property
    def prompt(self) -> str:
        """The whole prompt, with a placeholder for the question."""
        return self.head + PLACE + self.tail


def asking(tasks: Sequence[PromptTask], end: str | None, lead: str = "") -> Asking:
    """Return how the model of some tasks is asked: without any text around the question if the tasks ask in several
    ways.

    lead: what a prompt must begin with if the tokenizer that reads it puts nothing before a text.
    """
    templates = {task.template for task in tasks}
    template = templates.pop() if len(templates) == 1 else Template(PLACE, PLACE)
    head, _, tail = template.alone.partition(PLACE)
    other = template.with_input if template.with_input != template.alone else ""
    wordings = {task.wording.text for task in tasks if task.wording and not task.wording.is_instruction}
    wording = lead + wordings.pop() if len(wordings) == 1 else ""
    return Asking(lead + head, tail, end, "" if wording or not other else lead + other, wording)


def chat_template(asked: Asking) -> str:
    """Return a Jinja template in which each user's message is a prompt of training, and each answer ends as in
    training.
    """
    head, tail = quoted(asked.head), quoted(asked.tail)
    return (
        "{%- for message in messages %}"
        "{%- if message['role'] == 'user' %}{{- " + head + " + message['content'] + " + tail + " }}"
        "{%- elif message['role'] == 'assistant' %}{{- message['content'] + eos_token }}"
        "{%- endif %}{%- endfor %}"
    )


def quoted(text: str) -> str:
    """Return a text as a literal in a template, since spaces and lines around tags would not be kept."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def modelfile(source: str, asked: Asking, adapter: str = "") -> str:
    """Return an Ollama `Modelfile`. source: the GGUF of the model, or of the base that the file `adapter` belongs
    to.
    """
    lines = [
        f"FROM ./{source}",
        *([f"ADAPTER ./{adapter}"] if adapter else []),
        f'TEMPLATE """{asked.head}{{{{ .Prompt }}}}{asked.tail}"""',
        "PARAMETER temperature 0",
        *([f'PARAMETER stop "{asked.end}"'] if asked.end and '"' not in asked.end else []),
    ]
    return "\n".join(lines) + "\n"


def prompt_lines(asked: Asking) -> list[str]:
    """Return the card's lines that show the prompt of training."""
    if asked.wording:
        told = "It was trained on this prompt, and is to be asked with it, texts in the places of the braces:"
        return [told, "", *block(asked.wording)]
    lines = [
        "It was trained on this prompt, and is to be asked with it, the question in the place of the braces, without a "
        "system message:",
        "",
        *block(asked.prompt),
    ]
    if asked.with_input:
        lines += ["", "A question with further input was asked so:", "", *block(asked.with_input)]
    return lines


def block(text: str) -> list[str]:
    return ["```text", *text.split("\n"), "```"]
