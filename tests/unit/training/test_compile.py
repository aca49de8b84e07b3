"""While blocks are compiled, the user is told that it goes on."""

from __future__ import annotations

import threading

from reflora_cli.training.compile import telling_time


def test_time_is_told_until_compiling_ends() -> None:
    said: list[str] = []
    twice = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        if len(said) >= 2:
            twice.set()

    with telling_time(say, every=0.01):
        assert twice.wait(60)
    count = len(said)
    assert all(text.startswith("still compiling, after ") for text in said)
    assert not [own for own in threading.enumerate() if own.name == "compiling"]
    assert len(said) == count


def test_what_is_compiled_soon_is_told_nothing_of() -> None:
    said: list[str] = []
    with telling_time(said.append, every=60):
        pass
    assert said == []
