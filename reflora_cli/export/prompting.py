"""Tell users how to ask an exported language model as it was trained: by chat template, by Modelfile, in the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflora_cli.export.ollama import OllamaPrompt, literal, trained_prompt
from reflora_cli.model.chat_template import (
    PLACE,
    QUESTION,
    Ending,
    by_chat_template,
    ending,
    prompt_of,
    prompt_template,
    reads,
    said,
    shared_wording,
)
from reflora_cli.tasks.base import PromptTask

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM = "Answer in one sentence."
"""A system message in the card's example."""


@dataclass(frozen=True)
class Reader:
    """What a program's own tokenizer does with a prompt.

    begins: whether it puts the begin token before a text. lead: what a text must begin with, as some tokenizers put
    that there in training and the program does not.
    """

    begins: bool
    lead: str = ""


@dataclass(frozen=True)
class Served:
    """How a language model is asked where it is served.

    chat_template: in Jinja. end: what ends an answer by a chat template that was trained; None for the end token alone.
    begins: whether a prompt begins with the begin token. ollama: for its Modelfile. card: the lines of a model card.
    """

    chat_template: str
    end: Ending | None
    begins: bool
    ollama: OllamaPrompt
    card: tuple[str, ...]


def served(parts: Sequence[PromptTask], tokenizer: PreTrainedTokenizerBase, reader: Reader) -> Served:
    """Return how the model of some tasks is asked. tokenizer: the one with the template that was trained. reader: the
    tokenizer of the program that serves it.
    """
    if by_chat_template(parts):
        return by_template(tokenizer, reader)
    return by_prompt(parts, str(tokenizer.eos_token), reader)


def by_prompt(parts: Sequence[PromptTask], end: str, reader: Reader) -> Served:
    """Return how a model is asked that was trained on its tasks' own prompts. end: the text of the end token."""
    wording, begin = shared_wording(parts), "bos_token" if reader.begins else ""
    head, _, tail = wording.alone.partition(PLACE)
    go = f"{literal(reader.lead + head)}{{{{ .Prompt }}}}{literal(tail)}"
    return Served(
        prompt_template(wording, reader.lead, begin),
        None,
        reader.begins,
        OllamaPrompt(go, stops=(end,)),
        tuple(wording_lines(parts, reader.lead)),
    )


def by_template(tokenizer: PreTrainedTokenizerBase, reader: Reader) -> Served:
    """Return how a model is asked that was trained by a chat template."""
    end = ending(tokenizer)
    stops = dict.fromkeys([*([end.text] if end else []), str(tokenizer.eos_token)])
    bos = tokenizer.bos_token
    begins = bool(bos) and prompt_of(tokenizer, [said("user", QUESTION)]).startswith(str(bos))
    begin = str(bos) if begins and reader.begins else ""
    return Served(
        str(tokenizer.chat_template),
        end,
        begins,
        trained_prompt(tokenizer, begin, tuple(stops)),
        tuple(template_lines(tokenizer, end)),
    )


def card_lines(parts: Sequence[PromptTask], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the card's lines on how the model of some tasks is asked. tokenizer: as in `served`."""
    if by_chat_template(parts):
        return template_lines(tokenizer, ending(tokenizer))
    return wording_lines(parts)


def wording_lines(parts: Sequence[PromptTask], lead: str = "") -> list[str]:
    """Return the card's lines that show the prompt of training."""
    of_columns = {part.wording.text for part in parts if part.wording and not part.wording.is_instruction}
    if len(of_columns) == 1:
        told = "It was trained on this prompt and must be asked with it, with texts in the places of the braces:"
        return [told, "", *block(lead + of_columns.pop())]
    wording = shared_wording(parts)
    lines = [
        "It was trained on this prompt and must be asked with it, with the question in the place of the braces and "
        "without a system message:",
        "",
        *block(lead + wording.alone),
    ]
    if wording.with_input != wording.alone:
        lines += ["", "A question with further input was written like this:", "", *block(lead + wording.with_input)]
    return lines


def template_lines(tokenizer: PreTrainedTokenizerBase, end: Ending | None) -> list[str]:
    """Return the card's lines that show a prompt by the chat template that was trained."""
    system = [said("system", SYSTEM)]
    messages = [*(system if reads(tokenizer, system) else []), said("user", QUESTION)]
    ends = f" An answer ends with `{end.text}`." if end else ""
    is_one = end is None or end.token is not None
    several = " If generation does not stop there by itself, pass it as `eos_token_id` of `generate`." if end else ""
    several = several if is_one else " That is several tokens: set it as a stop string of the program that generates."
    return [
        "It was trained on conversations in the tokenizer's chat template and must be asked with it. A question is "
        f"written like this, with special tokens:{'' if len(messages) > 1 else ' (a system message is not read)'}",
        "",
        *block(prompt_of(tokenizer, messages)),
        "",
        f"The answer follows.{ends}{several}",
    ]


def block(text: str) -> list[str]:
    """Return a text as a fenced block."""
    return ["```text", *text.split("\n"), "```"]
