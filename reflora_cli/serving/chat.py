"""Talk with a trained language model: the function that `reflora chat` calls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.ground.paths import expanded
from reflora_cli.objectives.language_asking import LanguageAsking
from reflora_cli.objectives.pick import kind_of
from reflora_cli.runs.restore import Restored
from reflora_cli.serving.conversation import Conversation
from reflora_cli.serving.model import ModelRequest, find_model, load_model, without_adapter
from reflora_cli.serving.prompting import Prompting, prompting_of
from reflora_cli.serving.writing import Show, Writer, WritingSettings, most_new_tokens

COMMANDS = {
    "/reset": "forget the conversation",
    "/system TEXT": "set the system message",
    "/save FILE": "write the conversation as JSON",
    "/help": "show these commands",
    "/exit": "end, like Ctrl-D; Ctrl-C ends an answer",
}


@dataclass(frozen=True)
class ChatRequest:
    """Whom to talk with, and how. compare: every answer is given without the adapter too. max_new_tokens: None for as
    many as suit the model.
    """

    model: ModelRequest
    compare: bool = False
    max_new_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True)
class Screen:
    """Where the conversation takes place.

    read: returns the next line; raises EOFError at the end. show: shows a part of an answer. is_typed: a person sits
    there, so that an error or an interrupt ends no more than an answer.
    """

    read: Callable[[], str]
    show: Show
    is_typed: bool


def chat(request: ChatRequest, screen: Screen, reporter: Reporter) -> None:
    """Talk until the user ends it. Raises InputError for a model that cannot talk, and for wrong lines of a file."""
    conversation = begin(request, reporter)
    if screen.is_typed:
        reporter.facts("commands", COMMANDS)
    while True:
        try:
            line = screen.read()
            if line.strip() and not answer(conversation, line.strip(), screen):
                return
        except EOFError:
            return
        except KeyboardInterrupt:
            if not screen.is_typed:
                raise
            reporter.note("\n/exit or Ctrl-D ends the conversation")
        except InputError as error:
            if not screen.is_typed:
                raise
            reporter.note(str(error))


def begin(request: ChatRequest, reporter: Reporter) -> Conversation:
    """Load the model, twice for a comparison: modules that were trained whole cannot be taken off."""
    found = find_model(request.model)
    if not kind_of(found.task).protocols:
        what = f"chat needs a language model, and a model for {found.task.name} answers with labels or numbers"
        remedy = f"use reflora predict {request.model.source}"
        raise InputError(Problem(what, request.model.source, expected="a language model", remedy=remedy))
    asking = kind_of(found.task).asking(None)
    assert isinstance(asking, LanguageAsking)
    plain = without_adapter(found) if request.compare else None
    restored = load_model(found, reporter)
    prompting = prompting_of(restored.base.tokenizer, asking.plain, has_prompt=found.has_prompt)
    writers = {"with the adapter": writer(restored, request, prompting)}
    if plain is not None:
        reporter.note("loading its base a second time, without the adapter")
        writers["without the adapter"] = writer(load_model(plain, reporter), request, prompting)
    reporter.note(prompting.note)
    return Conversation(request.model.source, prompting, writers, reporter)


def writer(restored: Restored, request: ChatRequest, prompting: Prompting) -> Writer:
    """Return the model, ready to write."""
    most = request.max_new_tokens or most_new_tokens(restored.base)
    return Writer(
        restored.base, restored.compute, WritingSettings(most, request.temperature, request.seed, prompting.ends)
    )


def answer(conversation: Conversation, line: str, screen: Screen) -> bool:
    """Answer a message or obey a command. Returns whether the conversation goes on."""
    command, _, text = line.partition(" ")
    match command if line.startswith("/") else "":
        case "":
            conversation.ask(line, screen.show)
        case "/exit":
            return False
        case "/reset":
            conversation.reset()
        case "/system":
            conversation.instruct(text.strip())
        case "/save":
            save(conversation, text.strip())
        case "/help":
            conversation.reporter.facts("commands", COMMANDS)
        case _:
            known = [name.partition(" ")[0] for name in COMMANDS]
            raise InputError(Problem("there is no such command", "", command, remedy=nearest(command, known)))
    return True


def save(conversation: Conversation, name: str) -> None:
    if not name:
        raise InputError(Problem("no file is named", "/save", expected="/save FILE"))
    path: Path = expanded(name)
    conversation.save(path)
    conversation.reporter.note(f"saved: {path}")
