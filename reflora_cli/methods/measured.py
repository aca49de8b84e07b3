"""What methods cost beside plain LoRA, as a benchmark measured it: `python -m tests.benchmarks.methods`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("measured.json")
"""The file that the benchmark writes."""


@dataclass(frozen=True)
class Cost:
    """The cost of a preset. time: the seconds of the fastest training step over those of LoRA. memory: what a run keeps
    of trained parameters, moments and constants, over the same of LoRA.
    """

    time: float
    memory: float


@dataclass(frozen=True)
class Measured:
    """The costs by preset. setting: on what they were measured, in words; empty where nothing was."""

    setting: str
    costs: Mapping[str, Cost]


def measured() -> Measured:
    """Return what the benchmark has written; nothing where it has written nothing."""
    if not FILE.is_file():
        return Measured("", {})
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return Measured(found["setting"], {name: Cost(**own) for name, own in found["costs"].items()})
