"""`reflora chat`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from reflora_cli.cli.guard import guarded, refuse_several_processes
from reflora_cli.cli.opening import opened
from reflora_cli.cli.options import Adapter, AnyModel, BasePlace, TaskName


def chat_command(
    model: AnyModel,
    adapter: Adapter = None,
    base: BasePlace = None,
    task: TaskName = None,
    compare: Annotated[bool, typer.Option("--compare", help="Answer with and without the adapter.")] = False,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer [default: 256 if they fit].")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Sampling temperature; 0: always the most likely token.")
    ] = 0.0,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Random seed of sampling.")] = 0,
) -> None:
    """Talk with a trained language model: answers appear as they are written.

    Lines of a pipe are messages too. /help lists the commands; Ctrl-C ends an answer, Ctrl-D the conversation.

    Example: `reflora chat runs/llama3 --compare`
    """
    with guarded():
        refuse_several_processes("reflora chat")
        reporter = opened(model)
        from reflora_cli.console.output import outliving_reader
        from reflora_cli.serving.chat import ChatRequest, Screen, chat
        from reflora_cli.serving.model import ModelRequest

        is_typed = sys.stdin is not None and sys.stdin.isatty()
        screen = Screen(read_typed if is_typed else read_line, show, is_typed)
        request = ChatRequest(ModelRequest(model, adapter, base, task), compare, max_new_tokens, temperature, seed)
        with outliving_reader():
            chat(request, screen, reporter)


def read_typed() -> str:
    """Return a line that a person types, with the keys of readline where Python has it."""
    from contextlib import suppress

    with suppress(ImportError):
        import readline  # noqa: F401
    return input("> ")


def read_line() -> str:
    """Return the next line of a pipe or file. Raises EOFError behind the last one, InputError for other than UTF-8."""
    from reflora_cli.ground.errors import InputError, Problem

    data = sys.stdin.buffer.readline() if sys.stdin else b""
    if not data:
        raise EOFError
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        found = f"byte 0x{data[error.start]:02x}"
        raise InputError(Problem("this is not UTF-8 text", "standard input", found, "UTF-8")) from None


def show(text: str) -> None:
    """Write a part of an answer on stdout; characters that its encoding lacks are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
