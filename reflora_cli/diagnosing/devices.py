"""Look at what computes: processors, accelerators, precisions, quantization."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from reflora_cli.diagnosing.finding import Finding, State, first_line, gigabytes
from reflora_cli.methods.settings import Attention

if TYPE_CHECKING:
    import torch

FLAGS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_bf16": "AVX-512 with bfloat16", "amx_bf16": "AMX with bfloat16"}
"""The parts of a processor's instruction set that matter, as Linux calls them, and as others do."""
FAST_BFLOAT16 = ("avx512_bf16", "amx_bf16")
"""Those with which a processor multiplies in bfloat16 faster than in float32."""
WORST = 0.25
"""The largest mean error of nf4, as a share of the mean magnitude, at which it works. Normal numbers have a tenth."""


def devices() -> Iterator[Finding]:
    """Yield the processor, its memory and threads, each accelerator, and what quantizing on each gives."""
    import torch

    flags = processor_flags()
    extensions = ", ".join(FLAGS[own] for own in flags) or "no vector extensions that are known"
    yield Finding("processor", f"{processor_name()}: {extensions}")
    yield Finding("cores", cores())
    yield threads(torch.get_num_threads())
    yield Finding("memory", memory())
    is_fast = any(own in flags for own in FAST_BFLOAT16)
    yield Finding("bfloat16 on the processor", "fast" if is_fast else "works, no faster than float32")
    yield from accelerators()
    yield Finding("attention", attention())
    yield compiling("cuda" if torch.cuda.is_available() else "cpu")
    yield nf4(torch.device("cpu"))
    if torch.cuda.is_available():
        yield nf4(torch.device("cuda"))


def processor_flags() -> tuple[str, ...]:
    """Return the known parts of the instruction set; none where the system does not say."""
    words = set(field_of("flags").split())
    return tuple(own for own in FLAGS if own in words)


def processor_name() -> str:
    return field_of("model name") or platform.processor() or platform.machine()


def field_of(name: str) -> str:
    """Return the first value of a field of /proc/cpuinfo, empty where there is none."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return ""


def cores() -> str:
    """Return how many cores there are, and how many this process may use where these are fewer."""
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if os.name == "posix" and Path("/proc").exists() else there
    return f"{usable}" if usable == there else f"{usable} of {there}"


def threads(number: int) -> Finding:
    """Return the finding about torch's threads."""
    chosen = os.environ.get("OMP_NUM_THREADS")
    return Finding("threads", f"{number}{f' (OMP_NUM_THREADS={chosen})' if chosen else ''}")


def memory() -> str:
    """Return the machine's memory, and what of it is free where the system says so."""
    with suppress(OSError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        free = available()
        return gigabytes(total) if free is None else f"{gigabytes(free)} free of {gigabytes(total)}"
    return "unknown"


def available() -> int | None:
    """Return the bytes of memory that programs can have, None where the system does not say."""
    with suppress(OSError), open("/proc/meminfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def accelerators() -> Iterator[Finding]:
    """Yield each accelerator with its memory and precisions."""
    import torch

    kind = torch.accelerator.current_accelerator(check_available=True)
    if kind is None:
        yield Finding("accelerator", "none: runs are on the processor")
    elif kind.type != "cuda":
        yield Finding("accelerator", kind.type)
    for index in range(torch.cuda.device_count()):
        yield Finding(f"GPU {index}", gpu(index))


def attention() -> str:
    """Return the values of `model.attention` with which this machine trains."""
    from reflora_cli.model.attention import lacking
    from reflora_cli.model.precision import pick_device

    device = pick_device()
    return ", ".join(str(own) for own in Attention if not lacking(own, device))


def compiling(kind: str) -> Finding:
    """Return the finding about what `train.compile` needs: a C++ compiler for a CPU; triton and a C compiler, which
    triton calls, for a GPU. kind: the type of the device that trains.
    """
    cpu = {"CXX": ("clang++" if sys.platform == "darwin" else "g++",)}
    ((variable, usual),) = ({"CC": ("gcc", "clang")} if kind == "cuda" else cpu).items()
    names = (os.environ[variable],) if variable in os.environ else usual
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        remedy = f"install {usual[0]}, or name another in the environment variable {variable}, for train.compile"
        return Finding("compiling", f"no compiler: {' and '.join(names)} not found", State.WARNING, remedy)
    if kind == "cuda" and find_spec("triton") is None:
        return Finding("compiling", "triton is not installed", State.WARNING, "pip install triton, for train.compile")
    return Finding("compiling", f"works, by {compiler}{' and triton' if kind == 'cuda' else ''}")


def gpu(index: int) -> str:
    """Return the name, memory and precisions of a GPU."""
    import torch

    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    with torch.cuda.device(index):
        precise = torch.cuda.is_bf16_supported(including_emulation=False)
    precisions = [f"{'' if precise else 'no '}bfloat16", f"{'' if major >= 8 else 'no '}TF32"]
    capability = f"compute capability {major}.{minor}"
    name = torch.cuda.get_device_name(index)
    return f"{name}, {gigabytes(free)} free of {gigabytes(total)}, {capability}, {', '.join(precisions)}"


def nf4(device: torch.device) -> Finding:
    """Return whether a small matrix is quantized to nf4 and back on a device."""
    name, remedy = f"nf4 on {device.type}", "pip install --upgrade bitsandbytes; model.quantization needs it"
    try:
        share = nf4_error(device)
    except Exception as error:  # a library for another GPU or driver fails in ways of its own
        found = f"fails: {type(error).__name__}: {first_line(error)}"
        return Finding(name, found, State.WARNING, remedy)
    if not share < WORST:
        return Finding(name, f"wrong by {share:.0%} of a weight on average", State.WARNING, remedy)
    return Finding(name, f"works, wrong by {share:.1%} of a weight on average")


def nf4_error(device: torch.device) -> float:
    """Return the mean error of a matrix that went to nf4 and back, as a share of its mean magnitude."""
    import torch

    # bitsandbytes says at its import that it has looked for faster kernels on the hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)).to(device)
    packed, state = quantize_4bit(weight, quant_type="nf4")
    error = (dequantize_4bit(packed, state) - weight).abs().mean()
    return float(error / weight.abs().mean())
