"""Keep token ids on disk, so that rows are tokenized once and not at every start.

A file's name is a digest of all that decides its content: the texts, the tokenizer, the settings, the libraries. A
damaged file is made again, and a place that cannot be written is no error, since only time depends on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from reflora_cli import __version__
from reflora_cli.data.pad import TokenIds
from reflora_cli.ground.atomic import write_file
from reflora_cli.ground.errors import InputError

Columns = dict[str, NDArray[Any]]
"""Encoded rows, stored as flat arrays by name."""
SETTINGS = ("truncation_side", "split_special_tokens", "model_input_names")
"""Settings of a tokenizer that change its output, though its backend does not know them."""
WORTHWHILE = 2000
"""The least number of rows for which a file is faster than a tokenizer."""
LARGEST = 2**30
"""The largest size of all files together, in bytes; beyond it, the files that were used longest ago are removed."""


def remembered(
    tokenizer: Any, settings: Sequence[object], examples: Sequence[object], encode: Callable[[], Columns]
) -> Columns:
    """Return the result of `encode`, read from disk if it is there. settings and examples: everything else that decides
    the result.
    """
    state = tokenizer_state(tokenizer) if len(examples) >= WORTHWHILE else None
    if state is None:
        return encode()
    path = cache_directory() / f"{digest([state, *map(repr, settings)], examples)}.safetensors"
    found = read(path)
    if found is None:
        found = encode()
        write(path, found)
    return found


def cache_directory() -> Path:
    """Return REFLORA_CACHE, or `reflora` in the user's cache directory."""
    if own := os.environ.get("REFLORA_CACHE"):
        return Path(own) / "tokens"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reflora" / "tokens"


def tokenizer_state(tokenizer: Any) -> str | None:
    """Return all that a tokenizer's output depends on; None for a tokenizer written in Python, which does not tell."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    for key in ("truncation", "padding"):  # of its last call
        state.pop(key, None)
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    settings = {name: getattr(tokenizer, name, None) for name in SETTINGS}
    libraries = [version("tokenizers"), version("transformers"), __version__]
    return json.dumps([state, special, settings, type(tokenizer).__name__, libraries], sort_keys=True)


def digest(settings: Sequence[str], examples: Sequence[object]) -> str:
    """Return the sha256 of settings and rows; the repr of a row holds all of its fields."""
    found = hashlib.sha256()
    for text in settings:
        found.update(f"{text}\n".encode("utf-8", "surrogatepass"))
    for example in examples:
        found.update(f"{example!r}\n".encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def read(path: Path) -> Columns | None:
    """Return the arrays in a file; None where there is no file or a damaged one."""
    try:
        with safe_open(path, framework="numpy") as file:
            columns = {name: file.get_tensor(name) for name in sorted(file.keys())}
            known = (file.metadata() or {}).get("sha256")
        os.utime(path)
    except (OSError, SafetensorError, ValueError):
        return None
    return columns if known == checksum(columns) else None


def write(path: Path, columns: Columns) -> None:
    with contextlib.suppress(InputError, OSError):
        write_file(path, save(columns, {"sha256": checksum(columns)}))
        remove_oldest(path.parent)


def checksum(columns: Columns) -> str:
    found = hashlib.sha256()
    for name in sorted(columns):
        found.update(name.encode())
        found.update(np.ascontiguousarray(columns[name]).data)
    return found.hexdigest()


def remove_oldest(directory: Path) -> None:
    """Remove the oldest files until the cache holds at most LARGEST bytes."""
    files = sorted(directory.glob("*.safetensors"), key=lambda file: -file.stat().st_mtime)
    total = 0
    for file in files:
        total += file.stat().st_size
        if total > LARGEST:
            file.unlink(missing_ok=True)


def as_array(rows: Sequence[list[int]]) -> TokenIds:
    """Return the ids of all rows, one row after the other."""
    return np.fromiter(chain.from_iterable(rows), dtype=np.int32, count=sum(map(len, rows)))


def rows_of(ids: TokenIds, lengths: NDArray[Any]) -> list[TokenIds]:
    """Return the rows as views of the one array."""
    ends = np.cumsum(lengths).tolist()
    return [ids[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def joined(parts: Sequence[Columns]) -> Columns:
    """Concatenate the columns of several parts; there must be at least one part."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
