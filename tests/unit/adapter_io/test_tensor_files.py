"""Tensors read from safetensors files: the library's values, the file's order, and one tensor in memory at a time."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reflora_cli.adapter_io.tensor_files import DTYPES, Announced, ShardedWriter, tensor_places
from reflora_cli.ground.errors import InputError


def made(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return (torch.rand(shape) * 2).to(dtype)


def test_every_dtype_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    tensors = {f"{dtype}": made(dtype, 3, 5) for dtype in DTYPES.values()} | {"empty": torch.empty(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    places = tensor_places(tmp_path)
    assert places.keys() == tensors.keys()
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        assert (places[name].dtype, places[name].shape) == (tensor.dtype, tuple(tensor.shape))
        assert torch.equal(places[name].read().view(torch.uint8), tensor.view(torch.uint8))


@pytest.mark.parametrize("shard_size", [10**6, 40])
def test_the_order_is_that_of_the_files(shard_size: int, tmp_path: Path) -> None:
    tensors = {name: torch.rand(3, 3) for name in ("z", "a", "m")}
    announced = [Announced(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
    ShardedWriter(tmp_path, announced, shard_size).write(iter(tensors.items()))
    places = tensor_places(tmp_path)
    assert [*places] == ["z", "a", "m"]
    assert all(torch.equal(place.read(), tensors[name]) for name, place in places.items())


def damaged(content: bytes, kind: str) -> bytes:
    size = int.from_bytes(content[:8], "little")
    match kind:
        case "cut":
            return content[:-4]
        case "empty":
            return b""
        case "length":
            return (10**12).to_bytes(8, "little") + content[8:]
        case "json":
            return content[:8] + b"x" * size + content[8 + size :]
        case "dtype":
            return content.replace(b'"F32"', b'"X32"')
        case _:
            raise ValueError(kind)


@pytest.mark.parametrize("kind", ["cut", "empty", "length", "json", "dtype"])
def test_a_damaged_file_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"w": torch.rand(4, 4)}, file)
    file.write_bytes(damaged(file.read_bytes(), kind))
    with pytest.raises(InputError, match="weights are damaged") as caught:
        tensor_places(tmp_path)
    assert str(file) in str(caught.value)


def test_a_file_of_the_index_that_is_missing_is_refused(tmp_path: Path) -> None:
    index = {"weight_map": {"w": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="damaged"):
        tensor_places(tmp_path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_what_was_read_goes_with_the_tensor(tmp_path: Path) -> None:
    """Ten tensors of 8 MiB each, one at a time: at no time are two of them in memory."""
    save_file({f"w{index}": torch.rand(2**21) for index in range(10)}, tmp_path / "model.safetensors")
    places, before, most = tensor_places(tmp_path), resident(), 0
    for place in places.values():
        total = float(place.read().sum())
        assert total > 0
        most = max(most, resident() - before)
    tensor = place.read()
    assert float(tensor.sum()) > 0
    assert 7 * 2**20 < resident() - before < 12 * 2**20
    assert most < 12 * 2**20


def resident() -> int:
    """Return the bytes of memory that this process holds, mapped files included."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
