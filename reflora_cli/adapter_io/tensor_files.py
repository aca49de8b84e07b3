"""Read and write safetensors files one tensor at a time.

The library writes only tensors that all exist at once. Here a file is written behind a header that is known beforehand;
and a tensor is read when it is asked for and is gone when its caller lets go of it. The format: eight bytes with the
header's length, the header (JSON: dtype, shape and place of every tensor), the tensors' bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from reflora_cli.ground.errors import InputError, Problem

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor is: its file and its name there, with its dtype and shape."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """Return the tensor, which lies in the mapped file. The file is open for this tensor alone: what was read of it
        is given back with the tensor, where one handle for all would keep all that it has read.
        """
        with safe_open(self.file, "pt") as tensors:
            tensor: Tensor = tensors.get_tensor(self.name)
        return tensor


def tensor_places(directory: Path) -> dict[str, TensorPlace]:
    """Return every tensor of a directory's safetensors files, in their order. Raises InputError for a damaged file."""
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        names = dict.fromkeys(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        files = [directory / name for name in names]
    else:
        whole = directory / "model.safetensors"
        files = [whole] if whole.is_file() else sorted(directory.glob("*.safetensors"))
    return {name: place for file in files for name, place in places_in(file)}


def places_in(file: Path) -> Iterator[tuple[str, TensorPlace]]:
    """Return the tensors of one file, in the order of their places."""
    try:
        with safe_open(file, "pt") as tensors:
            for name in tensors.offset_keys():
                entry = tensors.get_slice(name)
                yield name, TensorPlace(file, name, DTYPES[entry.get_dtype()], tuple(entry.get_shape()))
    except (OSError, SafetensorError, KeyError) as error:
        problem = Problem("the base model's weights are damaged", str(file), str(error))
        raise InputError(problem) from error


@dataclass(frozen=True)
class Announced:
    """A tensor that will be written: its name, dtype and shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


class ShardedWriter:
    """Writes a model's weights as one safetensors file, or beyond `shard_size` bytes as numbered files with an index.

    Tensors are written in the order in which they were announced.
    """

    def __init__(self, directory: Path, announced: Sequence[Announced], shard_size: int) -> None:
        self.directory = directory
        self.shards = shards_of(announced, shard_size)
        count = len(self.shards)
        self.names = [
            "model.safetensors" if count == 1 else f"model-{index:05d}-of-{count:05d}.safetensors"
            for index in range(1, count + 1)
        ]

    def write(self, tensors: Iterator[tuple[str, Tensor]]) -> None:
        """Take tensors one at a time and write them. Raises ValueError for one that was not announced in this way."""
        for name, shard in zip(self.names, self.shards, strict=True):
            with (self.directory / name).open("wb") as stream:
                stream.write(header_of(shard))
                for expected in shard:
                    found, tensor = next(tensors)
                    if (found, tensor.dtype, tuple(tensor.shape)) != (expected.name, expected.dtype, expected.shape):
                        raise ValueError(f"{found} was announced as {expected}")
                    stream.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        if len(self.shards) > 1:
            self.write_index()

    def write_index(self) -> None:
        members = {entry.name: name for name, shard in zip(self.names, self.shards, strict=True) for entry in shard}
        total = sum(entry.size for shard in self.shards for entry in shard)
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": members}, indent=2)
        (self.directory / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")


def shards_of(announced: Sequence[Announced], shard_size: int) -> list[list[Announced]]:
    """Divide tensors into shards of at most `shard_size` bytes, in order; a larger tensor has a shard of its own."""
    shards: list[list[Announced]] = [[]]
    filled = 0
    for entry in announced:
        if shards[-1] and filled + entry.size > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(entry)
        filled += entry.size
    return shards


def header_of(shard: Sequence[Announced]) -> bytes:
    """Return the bytes before the tensors, padded so that the tensors begin at a multiple of eight."""
    header: dict[str, Mapping[str, Any]] = {"__metadata__": {"format": "pt"}}
    place = 0
    for entry in shard:
        offsets = [place, place + entry.size]
        header[entry.name] = {"dtype": NAMES[entry.dtype], "shape": list(entry.shape), "data_offsets": offsets}
        place += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
