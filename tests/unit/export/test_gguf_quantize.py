"""Quantizing with llama.cpp's program: how it is found and run, and that what it wrote is checked.

A stand-in takes its place; where LLAMA_QUANTIZE names the real program, that is run too.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reflora_cli.console.reporter import SILENT, Reporter
from reflora_cli.export.gguf_model import writer_of
from reflora_cli.export.gguf_quantize import find_quantizer, quantize
from reflora_cli.export.gguf_types import GgufType
from reflora_cli.export.gguf_verify import ROUNDINGS, is_rounded, verify_gguf
from reflora_cli.ground.errors import InputError, VerificationError
from tests.unit.export.test_gguf import kept, written
from tests.unit.export.test_gguf_architectures import GEMMA3, PLAIN, model

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")

STAND_IN = Path(__file__).parents[2] / "llama_quantize.py"
PROGRAM = os.environ.get("LLAMA_QUANTIZE", "")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "llama-quantize"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STAND_IN}" "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv("LLAMA_QUANTIZE", str(path))
    return path


def request_of(tmp_path: Path) -> Any:
    base = kept(model("Qwen3", {**PLAIN, "head_dim": 12}), tmp_path / "base")
    _, request = written(base, tmp_path, GgufType.F16)
    return replace(request, output=tmp_path / "quantized.gguf")


def test_the_program_s_file_is_checked_as_ours_are(program: Path, tmp_path: Path) -> None:
    request = request_of(tmp_path)
    file = writer_of(GgufType.Q4_0, SILENT)(request)
    assert (file.path, file.kind) == (request.output, "q4_0")
    assert verify_gguf(file, request) > 0.01
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file.path).tensors}
    assert types["blk.0.attn_q.weight"] == "Q4_0"
    assert types["blk.0.attn_q_norm.weight"] == "F32"
    assert not (request.directory / "source.gguf").exists()


def test_its_lines_are_shown(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(tmp_path)
    monkeypatch.setattr("reflora_cli.export.gguf_quantize.SECONDS", 0.0)
    told: list[str] = []
    writer_of(GgufType.Q4_0, cast(Reporter, SimpleNamespace(counting=SILENT.counting, note=told.append)))(request)
    assert told[0].startswith("[1/")
    assert len(told) == len(gguf.GGUFReader(request.output).tensors)


@pytest.mark.parametrize(
    ("flaw", "error", "words"),
    [
        ("fails", InputError, "status 3\n.*\n.*out of luck"),
        ("silent", InputError, "no message"),
        ("type", VerificationError, "another type"),
        ("metadata", VerificationError, "context_length"),
    ],
)
def test_a_program_that_does_something_else_is_refused(
    flaw: str, error: type[Exception], words: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(tmp_path)
    monkeypatch.setenv("FLAW", flaw)
    with pytest.raises(error, match=words):
        writer_of(GgufType.Q4_0, SILENT)(request)


def test_a_tensor_that_is_another_is_found(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = request_of(tmp_path)
    monkeypatch.setenv("FLAW", "tensor")
    file = writer_of(GgufType.Q4_0, SILENT)(request)
    with pytest.raises(VerificationError, match=r"blk\.1\.ffn_up\.weight, Q4_0"):
        verify_gguf(file, request)


@pytest.mark.parametrize("named", ["", "/nowhere/llama-quantize"])
def test_without_the_program_one_message_says_how_to_get_it(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_QUANTIZE", named)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=r"(?s)llama-quantize.*LLAMA_QUANTIZE.*--gguf-type f16") as caught:
        writer_of(GgufType.Q4_K_M, SILENT)
    assert len(caught.value.problems) == 1
    assert writer_of(GgufType.Q8_0, SILENT)


def test_the_program_of_the_path_is_found(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLAMA_QUANTIZE")
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_quantizer() == program


def test_a_program_that_cannot_be_started_is_one_message(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    with pytest.raises(InputError, match="cannot be started"):
        quantize(broken, tmp_path / "in.gguf", tmp_path / "out.gguf", GgufType.Q4_0, SILENT.note)


def test_every_type_has_a_name_in_the_gguf_package() -> None:
    for kind in GgufType:
        assert gguf.LlamaFileType[kind.file_type] is not None


def test_roundings_are_those_of_the_gguf_package_s_quantizers() -> None:
    """An independent implementation of the types that it can write, on weights with outliers."""
    import torch

    torch.manual_seed(0)
    values = torch.randn(64, 256) * torch.randn(64, 1).exp()
    values[3, 5] = 30.0
    for name in ("F16", "BF16", "Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0"):
        kind = gguf.GGMLQuantizationType[name]
        back = gguf.quants.dequantize(gguf.quants.quantize(values.numpy(), kind), kind)
        assert is_rounded(torch.from_numpy(back), values, ROUNDINGS[name]), name
    assert not is_rounded(values.roll(1, 0), values, ROUNDINGS["Q2_K"])
    assert not is_rounded(values[:, :255], values, ROUNDINGS["Q2_K"])


@pytest.mark.skipif(not PROGRAM, reason="LLAMA_QUANTIZE does not name llama.cpp's program")
@pytest.mark.parametrize("kind", [kind for kind in GgufType if not kind.is_written_here])
def test_llama_cpp_s_own_program(kind: GgufType, tmp_path: Path) -> None:
    """Rows of 256 weights, without which its smaller types do not exist."""
    settings = {**GEMMA3, "hidden_size": 256, "intermediate_size": 512}
    base = kept(model("Gemma3Text", settings), tmp_path / "base")
    _, request = written(base, tmp_path, GgufType.F16)
    request = replace(request, output=tmp_path / "quantized.gguf")
    file = writer_of(kind, SILENT)(request)
    verify_gguf(file, request)
    types = {tensor.tensor_type.name for tensor in gguf.GGUFReader(file.path).tensors}
    assert types - {"F32", "F16"}
