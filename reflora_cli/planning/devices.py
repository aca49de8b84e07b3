"""Which device a run is planned for: a GPU by its name or size, or that of this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from reflora_cli.ground.errors import InputError, Problem, nearest

GIB = 2**30
SIZE = re.compile(r"([0-9]{1,4}(?:\.[0-9]+)?)\s*(?:GB|GiB|G)", re.IGNORECASE)
CONTEXT = 600 * 2**20
"""What CUDA's context, its libraries and their workspaces take of a GPU in a process of torch: about 0.5 to 0.6 GiB,
which differs between cards and drivers."""
USABLE = 0.97
"""The share of a card's nominal memory that its driver leaves to programs."""
GPUS: Mapping[str, float] = {
    "A10": 22.1, "A100-40": 39.4, "A100-80": 79.1, "A40": 44.4, "A6000": 47.4, "B200": 178.0, "H100": 78.0,
    "H200": 139.0, "L4": 22.0, "L40S": 44.4, "P100": 15.9, "RTX 2080 Ti": 10.7, "RTX 3060": 11.7, "RTX 3070": 7.7,
    "RTX 3080": 9.7, "RTX 3090": 23.6, "RTX 4060": 7.7, "RTX 4070": 11.7, "RTX 4080": 15.7, "RTX 4090": 23.5,
    "RTX 5080": 15.5, "RTX 5090": 31.4, "T4": 14.6, "V100-16": 15.8, "V100-32": 31.7,
}  # fmt: skip
"""The GiB that a program finds on common cards."""
WITHOUT_BFLOAT16 = ("P100", "RTX 2080 Ti", "T4", "V100-16", "V100-32")


@dataclass(frozen=True)
class Device:
    """What a run is planned for. kind: cuda or cpu. memory: the bytes that a program finds there. fixed: those that
    are taken before anything is loaded, and why.
    """

    name: str
    kind: str
    memory: int
    fixed: int
    fixed_reason: str
    has_bfloat16: bool = True


def named_gpu(text: str) -> Device:
    """Return a GPU by its name, or by a size such as `12 GB`. Raises InputError for an unknown one."""
    text = text.strip()
    if size := SIZE.fullmatch(text):
        memory = float(size[1]) * USABLE
        if memory * GIB <= CONTEXT:
            what = "the GPU has too little memory for any program that uses torch"
            raise InputError(Problem(what, "--gpu", repr(text), f"more than {shown_gib(CONTEXT)}"))
        return gpu(f"a GPU of {text}", memory, has_bfloat16=True)
    bare = {plain(name): name for name in GPUS}
    found = bare.get(plain(text), bare.get(f"rtx{plain(text)}"))
    if found is None:
        alike = [name for name in GPUS if plain(text) and plain(name).startswith(plain(text))]
        remedy = f"did you mean {' or '.join(alike)}?" if alike else nearest(text, GPUS)
        raise InputError(
            Problem("there is no known GPU with this name", "--gpu", repr(text), 'a name, or "12 GB"', remedy)
        )
    return gpu(found, GPUS[found], has_bfloat16=found not in WITHOUT_BFLOAT16)


def gpu(name: str, gib: float, *, has_bfloat16: bool) -> Device:
    return Device(name, "cuda", int(gib * GIB), CONTEXT, "CUDA's context and libraries, a constant", has_bfloat16)


def plain(name: str) -> str:
    """Return a card's name as it is compared: without spaces, hyphens and makers."""
    return re.sub(r"nvidia|geforce|gb$|[\s_-]", "", name.casefold())


def own_device() -> Device:
    """Return the device of this machine on which a run would train."""
    import torch

    from reflora_cli.model.precision import pick_device

    device = pick_device()
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return gpu(found.name, found.total_memory / GIB, has_bfloat16=torch.cuda.is_bf16_supported())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device("this machine's CPU", "cpu", memory, 0, "Python, its libraries and the rows, as in this process")


def resident() -> int:
    """Return the bytes that this process has in memory now, or at most had where the system does not say more."""
    from reflora_cli.runs.environment import peak_memory

    try:
        with open("/proc/self/statm", encoding="ascii") as stream:
            return int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import torch

        return peak_memory(torch.device("cpu"))


def shown_gib(size: float) -> str:
    """Return a number of bytes in GiB, or in smaller units where it is small."""
    for unit, factor in (("GiB", GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.2f} {unit}" if unit == "GiB" else f"{size / factor:.1f} {unit}"
    return f"{size:.0f} B"


def pinned(size: int) -> int:
    """Return the host memory that torch takes for so many bytes which a GPU reads by itself: a power of two."""
    return 1 << (size - 1).bit_length() if size else 0
