"""A conversation with one language model, or with the same model with and without its adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.atomic import write_json
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists
from reflora_cli.serving.prompting import Prompting
from reflora_cli.serving.writing import Show, Writer
from reflora_cli.tasks.messages import Message


@dataclass(frozen=True)
class Exchange:
    """A question, and the answers to it by the name of the model that gave them; the first is the conversation's."""

    question: str
    answers: dict[str, str]

    @property
    def messages(self) -> list[Message]:
        answer = next(iter(self.answers.values()))
        return [{"role": "user", "content": self.question}, {"role": "assistant", "content": answer}]


@dataclass
class Conversation:
    """What was said, and who answers.

    name: the model's name in saved conversations. writers: the models by name; the first one's answers are those that
    are read later.
    """

    name: str
    prompting: Prompting
    writers: dict[str, Writer]
    reporter: Reporter
    system: str = ""
    exchanges: list[Exchange] = field(default_factory=list)
    said: int = 0
    saved: set[Path] = field(default_factory=set)

    def ask(self, question: str, show: Show) -> None:
        """Answer a question, showing the answer while it is written. Raises InputError for a question that is too
        long.
        """
        prompt = self.fitting(question)
        answers = {}
        for name, writer in self.writers.items():
            if len(self.writers) > 1:
                show(f"[{name}]\n")
            answers[name] = writer.write(prompt, self.said, show)
            show("\n")
        self.said += 1
        self.exchanges.append(Exchange(question, answers))

    def fitting(self, question: str) -> list[int]:
        """Return the prompt's tokens, without the earliest exchanges if they do not fit."""
        room = min(writer.room for writer in self.writers.values())
        history = self.exchanges if self.prompting.reads_history else []
        for first in range(len(history) + 1):
            kept = [message for exchange in history[first:] for message in exchange.messages]
            prompt = self.prompting.tokens([*self.beginning(), *kept, {"role": "user", "content": question}])
            if len(prompt) <= room:
                if first:
                    self.reporter.note(
                        f"the conversation is too long for the model: its first {first} questions are left out"
                    )
                return prompt
        expected = f"at most {room}, with the prompt around it"
        raise InputError(Problem("the message is too long for the model", "", f"{len(prompt)} tokens", expected))

    def beginning(self) -> list[Message]:
        return [{"role": "system", "content": self.system}] if self.system else []

    def reset(self) -> None:
        """Forget what was said, but not the system message."""
        self.exchanges.clear()

    def instruct(self, text: str) -> None:
        """Take a system message; none for an empty text. Raises InputError where none would be read."""
        if not self.prompting.reads_system:
            what, remedy = "this model's prompt has no place for a system message", "write it into the message itself"
            raise InputError(Problem(what, "/system", self.prompting.note, "a chat template that reads one", remedy))
        before, self.system = self.system, text
        try:
            self.prompting.tokens([*self.beginning(), {"role": "user", "content": "?"}])
        except InputError:
            self.system = before
            raise

    def save(self, path: Path) -> None:
        """Write the conversation as JSON. Raises InputError for a file that this conversation has not written."""
        if exists(path) and path not in self.saved:
            raise InputError(Problem("the file already exists", str(path), remedy="choose another name"))
        write_json(path, {"model": self.name, "messages": [*self.beginning(), *self.spoken()]})
        self.saved.add(path)

    def spoken(self) -> list[dict[str, Any]]:
        """Return all messages; an answer that was compared has the others beside it."""
        found: list[dict[str, Any]] = []
        for exchange in self.exchanges:
            question, answer = exchange.messages
            compared = {"compared": exchange.answers} if len(exchange.answers) > 1 else {}
            found += [dict(question), {**answer, **compared}]
        return found
