"""Write conversations by a tokenizer's chat template, and make the template of a model that was trained on a prompt.

Programs that serve a model ask by the chat template of its tokenizer. What is handed over carries the one that was
trained: that of a run on conversations, or one that puts a task's own prompt around each message. A base's own template
is left out there: training never used it, and programs that find it would ask by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from reflora_cli.data.chat_text import ChatTemplate, refusals
from reflora_cli.model.base import Base
from reflora_cli.model.load import load_tokenizer
from reflora_cli.tasks.base import PromptTask, Task
from reflora_cli.tasks.messages import Message
from reflora_cli.tasks.prompts import Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACE = "{instruction}"
ALONE = Template(PLACE, f"{PLACE}\n{{input}}")
"""The wording of an instruction that is read without a prompt around it."""
QUESTION, ANSWER = "What is a cup?", "Answer0x"
"""Texts by which templates are tried."""


@dataclass(frozen=True)
class Ending:
    """What a template writes after an answer.

    text: that of the token, or all that is written if it begins with no token of its own. token: the token's id; None
    for several ordinary tokens, at which no search ends.
    """

    text: str
    token: int | None


def by_chat_template(parts: Sequence[PromptTask]) -> bool:
    """Return whether a model of these tasks is asked by its tokenizer's chat template."""
    return any(part.by_chat_template for part in parts)


def shared_wording(parts: Sequence[PromptTask]) -> Template:
    """Return the text around an instruction that all tasks have: none if they ask in several ways."""
    templates = {part.template for part in parts}
    return templates.pop() if len(templates) == 1 else ALONE


def prompt_of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Return the text that is continued by an answer to the last message. Raises ValueError for messages that the
    template does not take.
    """
    return str(applied(tokenizer, messages, add_generation_prompt=True, tokenize=False))


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Return the tokens of `prompt_of`. Raises as `prompt_of`."""
    found = applied(tokenizer, messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    return [int(token) for token in found]


def text_of(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """Return a whole conversation as text. Raises as `prompt_of`."""
    return str(applied(tokenizer, messages, add_generation_prompt=False, tokenize=False))


def applied(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], **options: Any) -> Any:
    """Return what the tokenizer's template makes of messages. options: those of transformers. Raises as `prompt_of`."""
    with refusals():
        return tokenizer.apply_chat_template([dict(own) for own in messages], **options)


def said(role: str, content: str) -> Message:
    """Return a message."""
    return {"role": role, "content": content}


def reads(tokenizer: PreTrainedTokenizerBase, earlier: Sequence[Message]) -> bool:
    """Return whether a prompt by the tokenizer's template depends on what was said before the last message."""
    last = [said("user", QUESTION)]
    try:
        return prompt_of(tokenizer, [*earlier, *last]) != prompt_of(tokenizer, last)
    except ValueError:
        return False


def ending(tokenizer: PreTrainedTokenizerBase) -> Ending | None:
    """Return what ends an answer by the tokenizer's template; None where nothing does. Raises as `prompt_of`."""
    if end := ChatTemplate(tokenizer).end():
        return Ending(end, cast(int, tokenizer.convert_tokens_to_ids(end)))
    after = text_of(tokenizer, [said("user", QUESTION), said("assistant", ANSWER)]).rpartition(ANSWER)[2].strip()
    return Ending(after, None) if after else None


def prompt_template(wording: Template, lead: str = "", begin: str = "") -> str:
    """Return a Jinja template in which each user's message is a prompt of training, and each answer ends as in
    training.

    lead: what a prompt must begin with if the tokenizer that reads it puts nothing before a text. begin: an expression
    for what stands before the first message.
    """
    head, _, tail = wording.alone.partition(PLACE)
    first = f"{{{{- {begin} }}}}" if begin else ""
    return (
        f"{first}{{%- for message in messages %}}"
        "{%- if message['role'] == 'user' %}"
        "{{- " + quoted(lead + head) + " + message['content'] + " + quoted(tail) + " }}"
        "{%- elif message['role'] == 'assistant' %}{{- message['content'] + eos_token }}"
        "{%- endif %}{%- endfor %}"
    )


def quoted(text: str) -> str:
    """Return a text as a literal in a template, since spaces and lines around tags would not be kept."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def own_template(tokenizer: PreTrainedTokenizerBase, wording: Template) -> str | None:
    """Return the template by which a tokenizer makes the token ids of training's prompts; None if there is none.

    A template writes the begin token itself, and some tokenizers put a space before a text only where no token stands.
    """
    prompt = wording.fill(QUESTION, "")
    expected = tokenizer(prompt)["input_ids"]
    for begin in ("", "bos_token"):
        for lead in ("", " "):
            template = prompt_template(wording, lead, begin)
            found = tokenizer.apply_chat_template(
                [dict(said("user", QUESTION))], chat_template=template, tokenize=True, return_dict=False
            )
            if list(found) == list(expected):
                return template
    return None


def served_tokenizer(base: Base, task: Task) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a trained model as it is handed over, with the template that asks as training did.

    It is read anew: one that has been used saves the truncation of its last call.
    """
    tokenizer = load_tokenizer(base.source)
    if not task.parts:
        return tokenizer
    trained = by_chat_template(task.parts)
    template = base.tokenizer.chat_template if trained else own_template(tokenizer, shared_wording(task.parts))
    tokenizer.chat_template = template
    return tokenizer


def end_tokens(base: Base, task: Task) -> list[int]:
    """Return the tokens that end an answer of a trained language model: those of its base, its tokenizer's end token,
    and the end of a turn in a template by which it was trained.
    """
    found = ending(base.tokenizer) if by_chat_template(task.parts) else None
    added = [] if found is None or found.token is None else [found.token]
    return list(dict.fromkeys([*own_end_tokens(base), *added]))


def own_end_tokens(base: Base) -> list[int]:
    """Return the tokens that end a base's answers: those that its generation config names, and its tokenizer's end
    token.
    """
    config = base.model.generation_config
    named = config.eos_token_id if config is not None else None
    tokens = (*(named if isinstance(named, list) else [named]), base.tokenizer.eos_token_id)
    return list(dict.fromkeys(int(token) for token in tokens if token is not None))
