"""Record in `environment.json` what a run ran on: enough to say later why two runs differ."""

from __future__ import annotations

import hashlib
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version

import torch

from reflora_cli import __version__
from reflora_cli.model.base import Base
from reflora_cli.model.sources import weights_hash

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "numpy", "bitsandbytes")


def describe(base: Base, examples: Mapping[str, Sequence[object]], device: torch.device) -> dict[str, object]:
    """Return versions, device, git state of the working directory, identity of the base model and of the data."""
    return {
        "reflora": __version__,
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type}, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "git": git_state(),
        "base": base_record(base),
        "data": {split: {"rows": len(rows), "sha256": data_hash(rows)} for split, rows in examples.items()},
    }


def base_identity(base: Base) -> dict[str, str | None]:
    """Return what identifies the exact base: a commit on the hub, or the hash of local weight files."""
    source = base.source
    return {"name": source.name, "revision": source.revision, "commit": base.commit, "sha256": weights_hash(source)}


def base_record(base: Base) -> dict[str, object]:
    """Return the base's identity, the place of a local base, and what a classifier's outputs mean."""
    path = base.source.location if base.source.is_local else None
    return {**base_identity(base), "path": path, "labels": list(base.labels)}


def data_hash(rows: Sequence[object]) -> str:
    """Return the sha256 of rows as read; the repr of a row holds all of its fields."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr(row).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def git_state() -> dict[str, object] | None:
    """Return commit and cleanliness of the working directory's repository; None outside one."""
    commands = (("rev-parse", "HEAD"), ("status", "--porcelain"))
    try:
        results = [
            subprocess.run(["git", *command], capture_output=True, text=True, timeout=10, check=False)
            for command in commands
        ]
    except (OSError, subprocess.TimeoutExpired):
        return None
    if any(result.returncode for result in results):
        return None
    commit, status = (result.stdout.strip() for result in results)
    return {"commit": commit, "clean": not status}


def peak_memory(device: torch.device) -> int:
    """Return peak bytes: those allocated on a GPU, or resident in this process on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
