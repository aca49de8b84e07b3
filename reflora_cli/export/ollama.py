"""Write Ollama's `Modelfile`, with a chat template in Go's syntax where one writes the same text as the Jinja template.

Ollama does not run Jinja: without TEMPLATE it takes the best known of its own templates, or none. The form here is cut
out of what the tokenizer's template renders. It holds for templates that write a conversation as

    start  U1  reply  A1  next  U2  ...  answer

with a system message inside of the start. That is checked on conversations, and anything else is left out: a wrong
prompt would be worse than none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflora_cli.model.chat_template import prompt_of, said
from reflora_cli.tasks.messages import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SYSTEM, FIRST, REPLY, SECOND = "System0x", "First0x", "Reply0x", "Second0x"
"""Texts that no template holds, to find out what it writes around messages."""
TRIED = ("Is {{ this }} {% so %}?", "a \"b\" 'c'\n\n- d", "1 < 2 & 3\\n", "é 你好")
"""Contents of messages that a template must leave as they are."""
PRESENT = ("strftime_now", "date_string")
"""Names of what templates write of the present day."""


class UnlikeError(Exception):
    """A template cannot be written for Ollama. The message is the reason."""


@dataclass(frozen=True)
class Conversation:
    """What a template writes around messages.

    start: before the first question without a system message. reply: between a question and an answer that was given.
    next: between that answer and the next question. answer: behind the last question. around_system: before and after a
    system message, up to the first question; None where the template reads none.
    """

    start: str
    reply: str
    next: str
    answer: str
    around_system: tuple[str, str] | None

    def text(self, messages: Sequence[Message]) -> str:
        """Return the prompt of a conversation that ends with a question."""
        text = self.start
        for message in messages:
            match message["role"]:
                case "system" if self.around_system:
                    text = message["content"].join(self.around_system)
                case "user":
                    text += message["content"]
                case "assistant":
                    text += self.reply + message["content"] + self.next
        return text + self.answer

    @property
    def system(self) -> str:
        """The system message that the template adds where there is none; empty for none."""
        before, after = self.around_system or ("", "")
        inner = len(self.start) - len(before) - len(after)
        is_there = self.start.startswith(before) and self.start.endswith(after) and inner > 0
        return self.start[len(before) : len(before) + inner] if self.around_system and is_there else ""


def conversation_of(tokenizer: PreTrainedTokenizerBase) -> Conversation:
    """Return what the tokenizer's template writes around messages. Raises UnlikeError for one of another form."""
    if any(name in str(tokenizer.chat_template) for name in PRESENT):
        raise UnlikeError("it writes the present date")
    try:
        start, answer = between(prompt_of(tokenizer, [said("user", FIRST)]), FIRST)
        turns = [said("user", FIRST), said("assistant", REPLY), said("user", SECOND)]
        _, reply, following, _ = between(prompt_of(tokenizer, turns), FIRST, REPLY, SECOND)
        found = Conversation(start, reply, following, answer, around_system(tokenizer))
        for tried in trials(with_system=found.around_system is not None):
            if found.text(tried) != prompt_of(tokenizer, tried):
                raise UnlikeError("what it writes depends on more than roles and texts")
    except ValueError as error:
        raise UnlikeError(f"it does not take a plain conversation ({error})") from error
    return found


def between(text: str, *contents: str) -> list[str]:
    """Return what is written around contents. Raises UnlikeError unless each stands there once, in this order."""
    pieces = list[str]()
    for content in contents:
        head, found, text = text.partition(content)
        if not found or content in text:
            raise UnlikeError("it does not write each message once, in its order")
        pieces.append(head)
    return [*pieces, text]


def around_system(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str] | None:
    """Return what is written around a system message before a question; None where it is refused or not written."""
    try:
        text = prompt_of(tokenizer, [said("system", SYSTEM), said("user", FIRST)])
    except ValueError:
        return None
    if SYSTEM not in text:
        return None
    before, after, _ = between(text, SYSTEM, FIRST)
    return before, after


def trials(*, with_system: bool) -> list[list[Message]]:
    """Return conversations on which both templates must agree. with_system: whether some begin with a system
    message.
    """
    a, b, c, d = TRIED
    plain = [
        [said("user", a)],
        [said("user", b), said("assistant", c), said("user", d)],
        [said("user", d), said("assistant", a), said("user", c), said("assistant", b), said("user", b)],
    ]
    return [*plain, *([said("system", c), *turns] for turns in plain if with_system)]


def go_template(conversation: Conversation, begin: str) -> str:
    """Return the conversation's form as a Go template over Ollama's messages. begin: the text of the begin token where
    Ollama puts it before a prompt itself.
    """
    start = literal(conversation.start.removeprefix(begin))
    if conversation.around_system is not None:
        before, after = conversation.around_system
        given = f"{literal(before.removeprefix(begin))}{{{{ .System }}}}{literal(after)}"
        start = f"{{{{ if .System }}}}{given}{{{{ else }}}}{start}{{{{ end }}}}"
    reply, following = literal(conversation.reply), literal(conversation.next)
    return (
        f"{start}{{{{ range .Messages }}}}"
        '{{ if eq .Role "user" }}{{ .Content }}'
        f'{{{{ else if eq .Role "assistant" }}}}{reply}{{{{ .Content }}}}{following}'
        f"{{{{ end }}}}{{{{ end }}}}{literal(conversation.answer)}"
    )


def literal(text: str) -> str:
    """Return a text for a Go template, in which two braces would begin an action."""
    return text.replace("{{", '{{ "{{" }}')


@dataclass(frozen=True)
class OllamaPrompt:
    """How Ollama asks a model.

    template: in Go's syntax; None if it is left out. left_out: why. trims: whether the template that was trained cuts
    white space around messages, which Go's syntax cannot. system: the system message that the model gets
    where there is no other. stops: texts that end an answer.
    """

    template: str | None
    left_out: str = ""
    trims: bool = False
    system: str = ""
    stops: tuple[str, ...] = ()


def trained_prompt(tokenizer: PreTrainedTokenizerBase, begin: str, stops: tuple[str, ...]) -> OllamaPrompt:
    """Return how Ollama asks by the tokenizer's template, if it can. begin: as in `go_template`."""
    try:
        found = conversation_of(tokenizer)
    except UnlikeError as error:
        return OllamaPrompt(None, str(error), stops=stops)
    template = go_template(found, begin)
    if not quotable(template) or not quotable(found.system):
        return OllamaPrompt(None, "it holds quotes that a Modelfile cannot", stops=stops)
    padded = [said("user", " padded\n")]
    trims = found.text(padded) != prompt_of(tokenizer, padded)
    return OllamaPrompt(template, trims=trims, system=found.system, stops=stops)


def quotable(text: str) -> bool:
    """Return whether a text can stand between three quotes."""
    return '"""' not in text and not text.endswith('"')


def modelfile(source: str, prompt: OllamaPrompt, adapter: str = "") -> str:
    """Return an Ollama `Modelfile`. source: the GGUF of the model, or of the base that the file `adapter` belongs
    to.
    """
    lines = [f"FROM ./{source}", *([f"ADAPTER ./{adapter}"] if adapter else [])]
    if prompt.template is None:
        lines += [
            f"# There is no TEMPLATE: the trained chat template has no equal in Ollama, since {prompt.left_out}.",
            "# Ollama would guess another one. Ask by the chat template in the GGUF file, as llama.cpp does (--jinja).",
        ]
    else:
        cut = "# The trained template cuts white space around messages, which a TEMPLATE cannot: send them without."
        lines += [*([cut] if prompt.trims else []), f'TEMPLATE """{prompt.template}"""']
    lines += [f'SYSTEM """{prompt.system}"""'] if prompt.system else []
    lines.append("PARAMETER temperature 0")
    lines += [f'PARAMETER stop "{stop}"' for stop in prompt.stops if '"' not in stop and "\n" not in stop]
    return "\n".join(lines) + "\n"
