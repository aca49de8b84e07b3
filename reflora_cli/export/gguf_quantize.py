"""Quantize a GGUF file with llama.cpp's own program, `llama-quantize`, to the types that are not written here."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reflora_cli.export.gguf_types import GgufType
from reflora_cli.ground.errors import InputError, Problem, VerificationError

PROGRAM, VARIABLE = "llama-quantize", "LLAMA_QUANTIZE"
HOW_TO_GET = (
    "install llama.cpp (`brew install llama.cpp`, a release of github.com/ggml-org/llama.cpp, or build its target "
    f"{PROGRAM}) and have {PROGRAM} on PATH, or its path in {VARIABLE}; or take --gguf-type f16 or q8_0, which need no "
    "program"
)
SECONDS = 2.0
"""The least time between two lines of the program that are shown."""
KEPT_LINES = 8
"""Last lines of the program in the message when it fails."""
CHANGED = {"general.file_type", "general.quantization_version", "GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
"""Metadata that quantizing may change."""


def find_quantizer() -> Path:
    """Return the program that LLAMA_QUANTIZE names, or that of PATH. Raises InputError if there is none."""
    named = os.environ.get(VARIABLE, "")
    found = shutil.which(named or PROGRAM)
    if found is None:
        where = VARIABLE if named else "PATH"
        what = f"this type is made by llama.cpp's program {PROGRAM}, which is not here"
        raise InputError(Problem(what, where, named, "a program that can be run", HOW_TO_GET))
    return Path(found)


def quantize(program: Path, source: Path, output: Path, kind: GgufType, tell: Callable[[str], None]) -> None:
    """Write `output`, the file `source` in another type. tell: shows a line of the program, every two seconds at most.

    Raises InputError when the program fails, VerificationError for another type or other metadata than those of the
    source. The program ends when this function does.
    """
    last: deque[str] = deque(maxlen=KEPT_LINES)
    shown = time.monotonic()
    with running([str(program), str(source), str(output), kind.upper()]) as process:
        for line in lines(process):
            last.append(line)
            if time.monotonic() - shown >= SECONDS:
                tell(line)
                shown = time.monotonic()
        status = process.wait()
    if status or not output.is_file():
        found = " / ".join(last) or "no message"
        raise InputError(Problem(f"{PROGRAM} failed with status {status}", str(program), found, remedy=HOW_TO_GET))
    refuse_other_metadata(source, output, kind)


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Yield a started program, whose output can be read as text. Raises InputError if it cannot be started."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            encoding="utf-8", errors="replace",
        )  # fmt: skip
    except OSError as error:
        what = f"{PROGRAM} cannot be started"
        raise InputError(Problem(what, command[0], str(error), remedy=HOW_TO_GET)) from error
    with process:
        try:
            yield process
        finally:
            process.kill()


def lines(process: subprocess.Popen[str]) -> Iterator[str]:
    """Yield what a program writes, line by line, without empty lines."""
    for line in process.stdout or ():
        if line.strip():
            yield line.strip()


def refuse_other_metadata(source: Path, output: Path, kind: GgufType) -> None:
    """Raises VerificationError if a quantized file says something else of the model than its source, or of its type."""
    import gguf

    before, after = (
        {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items() if name not in CHANGED}
        for path in (source, output)
    )
    if other := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise VerificationError(Problem(f"{PROGRAM} changed what the file says of the model", str(output), other[0]))
    found: Any = gguf.GGUFReader(output).fields["general.file_type"].contents()
    expected = gguf.LlamaFileType[kind.file_type]
    if found != expected:
        what = f"{PROGRAM} wrote another type than was asked for"
        raise VerificationError(Problem(what, str(output), str(found), f"{expected.value}, {kind}"))
