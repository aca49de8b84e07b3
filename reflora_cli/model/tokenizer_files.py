"""Keep a tokenizer beside an adapter, in the files that transformers reads."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from reflora_cli.ground.atomic import write_file
from reflora_cli.ground.paths import is_file

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenizer_files(tokenizer: PreTrainedTokenizerBase) -> dict[str, bytes]:
    """Return the files in which transformers keeps a tokenizer, by their path in its directory."""
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        files = sorted(path for path in Path(place).rglob("*") if path.is_file())
        return {str(path.relative_to(place)): path.read_bytes() for path in files}


def write_tokenizer(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write those of a tokenizer's files that are not there yet, each whole or not at all: they may be large."""
    for name, content in files.items():
        path = directory / name
        if not is_file(path) or path.read_bytes() != content:
            write_file(path, content)
