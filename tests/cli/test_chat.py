"""`reflora chat`: answers, history, commands, comparison, and wrong input."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from reflora_cli.cli import app
from reflora_cli.console.plain import PlainReporter
from reflora_cli.serving.chat import ChatRequest, Screen
from reflora_cli.serving.chat import chat as chat_with
from reflora_cli.serving.model import ModelRequest
from reflora_cli.serving.writing import Stream
from tests.cli.conftest import Outcome, Reflora

QUESTION, NEXT = "What is the shelf used for?", "What is it used for?"
TEMPLATE = (
    "{% for message in messages %}{% if message.role == 'system' %}{{ message.content }} "
    "{% elif message.role == 'user' %}Question: {{ message.content }} Answer:"
    "{% else %} {{ message.content }}{{ eos_token }} {% endif %}{% endfor %}"
)
"""A chat template in the tiny model's own wording."""
SHORT = ("--max-new-tokens", "6")


def chat(text: str, *arguments: object) -> Outcome:
    result = CliRunner().invoke(app, ["chat", *map(str, arguments)], input=text.encode())
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def merged(reflora: Reflora, answering: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("merged") / "model"
    assert reflora("merge", answering, "--output", output).status == 0
    return output


@pytest.fixture(scope="module")
def talking(merged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model whose tokenizer has a chat template with a place for a system message."""
    output = shutil.copytree(merged, tmp_path_factory.mktemp("talking") / "model")
    (output / "chat_template.jinja").write_text(TEMPLATE)
    return output


def expected_answer(directory: Path, prompt: str, count: int, *, special: bool = True) -> str:
    """What plain transformers writes, token by token, by the largest logit.

    special: the tokenizer puts its special tokens around the prompt; a chat template writes them itself.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    ids, new = tokenizer.encode(prompt, add_special_tokens=special), list[int]()
    while len(new) < count and tokenizer.eos_token_id not in new:
        with torch.no_grad():
            new.append(int(model(torch.tensor([ids + new])).logits[0, -1].argmax()))
    return str(tokenizer.decode(new, skip_special_tokens=True)).strip()


def test_a_run_answers_each_message_in_the_prompt_of_training(answering: Path, merged: Path) -> None:
    outcome = chat(f"{QUESTION}\n\n{QUESTION}\n", answering, *SHORT)
    assert outcome.status == 0, outcome.err
    expected = expected_answer(merged, f"Question: {QUESTION} Answer:", 6)
    assert outcome.out == f"{expected}\n" * 2 != "\n\n"
    assert outcome.err.count("no chat template: every message is read alone, in the prompt of builtin/questions") == 1


def test_a_chat_template_is_used_with_the_history(talking: Path, tmp_path: Path) -> None:
    lines = f"/system Cups.\n{QUESTION}\n{NEXT}\n/save {tmp_path / 'a.json'}\n/reset\n{NEXT}\n/exit\nnever\n"
    outcome = chat(lines, talking, *SHORT)
    assert outcome.status == 0, outcome.err
    first = expected_answer(talking, f"Cups. Question: {QUESTION} Answer:", 6, special=False)
    whole = f"Cups. Question: {QUESTION} Answer: {first}<eos> Question: {NEXT} Answer:"
    second = expected_answer(talking, whole, 6, special=False)
    alone = expected_answer(talking, f"Cups. Question: {NEXT} Answer:", 6, special=False)
    assert outcome.out.splitlines() == [first, second, alone]
    assert second != alone, "an answer that does not depend on the history would prove nothing"
    saved = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert [(own["role"], own["content"]) for own in saved["messages"]] == [
        ("system", "Cups."), ("user", QUESTION), ("assistant", first), ("user", NEXT), ("assistant", second),
    ]  # fmt: skip


def test_early_questions_are_left_out_when_the_model_is_full(talking: Path) -> None:
    outcome = chat(f"{QUESTION}\n" * 20, talking, *SHORT)
    assert (outcome.status, len(outcome.out.splitlines())) == (0, 20)
    assert "questions are left out" in outcome.err


def test_a_comparison_answers_with_and_without_the_adapter(answering: Path, merged: Path, tmp_path: Path) -> None:
    outcome = chat(f"{QUESTION}\n/save {tmp_path / 'a.json'}\n", answering, "--compare", *SHORT)
    base = Path(__file__).parents[2] / "reflora_cli" / "builtin" / "tiny_llama"
    prompt = f"Question: {QUESTION} Answer:"
    own, other = expected_answer(merged, prompt, 6), expected_answer(base, prompt, 6)
    assert outcome.out.splitlines() == ["[with the adapter]", own, "[without the adapter]", other], outcome.err
    assert own != other
    message = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["messages"][1]
    assert message["content"] == own
    assert message["compared"] == {"with the adapter": own, "without the adapter": other}


def test_draws_depend_on_the_seed_alone(answering: Path) -> None:
    def drawn(seed: int, temperature: float) -> str:
        outcome = chat("Tell me.\nTell me.\n", answering, "--temperature", temperature, "--seed", seed)
        assert outcome.status == 0, outcome.err
        return outcome.out

    assert drawn(1, 1.0) == drawn(1, 1.0)
    assert drawn(1, 1.0) != drawn(2, 1.0)
    assert drawn(1, 0.0) == drawn(2, 0.0)
    assert len(set(drawn(1, 3.0).splitlines())) == 2, "the answers of one conversation are drawn apart"


def test_wrong_input_is_refused(trained: Path, answering: Path, talking: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.json"
    there.write_text("{}")
    cases: dict[str, tuple[object, ...]] = {
        "answers with labels or numbers": ("", trained),
        "there is no such command": ("/rest\n", answering),
        "no place for a system message": ("/system Be brief.\n", answering),
        "the file already exists": (f"/save {there}\n", answering),
        "no file is named": ("/save\n", answering),
        "the message is too long": ("cup " * 300, answering),
        "no room is left for a question": ("", answering, "--max-new-tokens", 256),
        "there is no adapter to leave out": ("", talking, "--compare"),
        "neither a run nor a model": ("", tmp_path),
        "not UTF-8": (b"\xff\n".decode("latin-1"), answering),
    }
    for expected, (text, *arguments) in cases.items():
        data = str(text).encode("latin-1" if expected == "not UTF-8" else "utf-8")
        result = CliRunner().invoke(app, ["chat", *map(str, arguments)], input=data)
        assert (result.exit_code, result.stdout) == (2, ""), (expected, result.stderr)
        assert expected in result.stderr
    assert there.read_text() == "{}"


def test_characters_are_shown_when_all_their_bytes_are_there() -> None:
    class Bytes:
        def decode(self, ids: list[int], **_: Any) -> str:
            return bytes(ids).decode(errors="replace")

    shown: list[str] = []
    stream = Stream(Bytes(), shown.append)  # type: ignore[arg-type]
    stream.put(torch.tensor([[1, 2, 3]]))
    for byte in " a€ü".encode():
        stream.put(torch.tensor([byte]))
    stream.end()
    assert [part for part in shown if part] == ["a", "€", "ü"]


class Typed:
    """The command on a terminal."""

    def __init__(self, *arguments: object) -> None:
        self.master, slave = pty.openpty()
        environment = {**os.environ, "NO_COLOR": "1"}
        command = [sys.executable, "-m", "reflora_cli", "chat", *map(str, arguments)]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def wait_for(self, text: str, seconds: float = 60) -> None:
        assert self.comes(text, seconds), self.seen

    def comes(self, text: str, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while text not in self.seen:
            if time.monotonic() > end:
                return False
            if select.select([self.master], [], [], 1)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
        return True

    def send(self, text: str) -> None:
        self.seen = ""
        os.write(self.master, text.encode())

    def interrupt(self) -> None:
        self.seen = ""
        os.kill(self.process.pid, signal.SIGINT)


def test_an_interrupt_ends_an_answer(answering: Path, tmp_path: Path) -> None:
    """The third part of an answer is interrupted; the next message is answered as ever."""
    path = tmp_path / "a.json"
    lines, shown = iter(["Tell me.", f"/save {path}", "Tell me."]), list[str]()

    def read() -> str:
        line = next(lines, None)
        if line is None:
            raise EOFError
        return line

    def show(text: str) -> None:
        shown.append(text)
        if len(shown) == 3:
            raise KeyboardInterrupt

    # So hot that the model's end token is as likely as each of 1500 others.
    request = ChatRequest(ModelRequest(str(answering)), max_new_tokens=40, temperature=30.0)
    chat_with(request, Screen(read, show, is_typed=True), PlainReporter())
    _, answer = json.loads(path.read_text(encoding="utf-8"))["messages"]
    until = shown.index("\n")
    assert until <= 4, "three parts, and what was left to be shown of the third"
    assert answer["content"] == "".join(shown[:until]).rstrip() != ""
    assert len(shown[until + 1 :]) > 30


def test_an_interrupt_does_not_end_the_conversation(answering: Path, tmp_path: Path) -> None:
    typed = Typed(answering, "--temperature", 30, "--max-new-tokens", 200)
    try:
        typed.wait_for("> ")
        # One that arrives just before Python blocks in reading is seen at the next one only.
        assert any(typed.interrupt() or typed.comes("/exit or Ctrl-D ends", 3) for _ in range(10)), typed.seen
        typed.send("/bad\n")
        typed.wait_for("there is no such command")
        typed.send(f"{QUESTION}\n")
        time.sleep(0.3)  # wherever the answer is by now
        typed.interrupt()
        typed.send(f"/save {tmp_path / 'a.json'}\n")
        typed.wait_for("saved: ")
        typed.send("/exit\n")
        assert typed.process.wait(30) == 0
    finally:
        typed.process.kill()
        os.close(typed.master)
    assert (tmp_path / "a.json").is_file()
