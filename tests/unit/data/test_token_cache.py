"""Tokens kept on disk: the same rows, another file for other texts, and no trust in what is damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from reflora_cli.data import token_cache
from reflora_cli.data.encode import encode
from reflora_cli.data.encode_prompts import encode_prompts
from reflora_cli.model.sources import find_source
from reflora_cli.tasks.examples import Example, PromptExample

PAIRS = [Example((f"the cup number {n}", "a box"), float(n % 2)) for n in range(40)]
PROMPTS = [PromptExample(f"What is {n}?", f" {n} cups", f"What is {n}?") for n in range(40)]


def texts(tokenizer: Any, length: int) -> list[Any]:
    return [(row.input_ids.tolist(), row.label) for row in encode(tokenizer, PAIRS, length)]


def prompts(tokenizer: Any, length: int) -> list[Any]:
    rows = encode_prompts(tokenizer, PROMPTS, length, train_on_prompt=False).rows
    return [(row.input_ids.tolist(), row.spans) for row in rows]


ENCODE: dict[str, Callable[[Any, int], list[Any]]] = {"texts": texts, "prompts": prompts}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFLORA_CACHE", str(tmp_path))
    monkeypatch.setattr(token_cache, "WORTHWHILE", 1)
    return tmp_path / "tokens"


@pytest.fixture
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(find_source("builtin:tiny-llama", None).location)


class Deaf:
    """A tokenizer that says what it is and must not be called."""

    def __init__(self, tokenizer: Any) -> None:
        self.__dict__.update(
            backend_tokenizer=tokenizer.backend_tokenizer,
            special_tokens_map=tokenizer.special_tokens_map,
            eos_token_id=tokenizer.eos_token_id,
            **{name: getattr(tokenizer, name) for name in token_cache.SETTINGS},
        )
        type(self).__name__ = type(tokenizer).__name__


@pytest.mark.parametrize("kind", ENCODE)
def test_tokenized_once(kind: str, cache: Path, tokenizer: Any) -> None:
    first = ENCODE[kind](tokenizer, 32)
    assert len(list(cache.iterdir())) == 1
    assert ENCODE[kind](Deaf(tokenizer), 32) == first


@pytest.mark.parametrize("kind", ENCODE)
def test_the_same_as_without_it(kind: str, cache: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for length in (8, 12, 64):
        kept = [ENCODE[kind](tokenizer, length) for _ in range(2)]
        with monkeypatch.context() as patch:
            patch.setattr(token_cache, "WORTHWHILE", 1000)
            assert kept == [ENCODE[kind](tokenizer, length)] * 2
    assert len(list(cache.iterdir())) == 3


def test_other_rows_and_tokenizers_are_other_files(cache: Path, tokenizer: Any) -> None:
    encode(tokenizer, PAIRS, 32)
    encode(tokenizer, PAIRS[1:], 32)
    tokenizer.add_tokens(["<more>"])
    encode(tokenizer, PAIRS, 32)
    tokenizer.truncation_side = "left"
    encode(tokenizer, PAIRS, 32)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    encode(tokenizer, PAIRS, 32)
    assert len(list(cache.iterdir())) == 5


@pytest.mark.parametrize("place", [10, -3])
def test_a_damaged_file_is_made_again(place: int, cache: Path, tokenizer: Any) -> None:
    first = texts(tokenizer, 32)
    (file,) = cache.iterdir()
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)
    assert texts(tokenizer, 32) == first
    assert file.read_bytes() != content


def test_a_place_that_cannot_be_written_is_no_error(
    tmp_path: Path, cache: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REFLORA_CACHE", str(tmp_path / "file"))
    assert len(encode(tokenizer, PAIRS, 32)) == 40


def test_it_stays_within_its_limit(cache: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encode(tokenizer, PAIRS, 32)
    (file,) = cache.iterdir()
    monkeypatch.setattr(token_cache, "LARGEST", file.stat().st_size)
    encode(tokenizer, PAIRS[1:], 32)
    (left,) = cache.iterdir()
    assert left != file
