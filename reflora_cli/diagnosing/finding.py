"""Define what the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a finding is. WARNING: something that some runs need is missing. BROKEN: no run can work."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. remedy: what to do about it, empty where there is nothing to do."""

    name: str
    value: str
    state: State = State.OK
    remedy: str = ""

    @property
    def shown(self) -> str:
        """The value, marked where something is wrong."""
        if self.state is State.OK:
            return self.value
        return f"{self.state.upper()}: {self.value}{f'; {self.remedy}' if self.remedy else ''}"


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def first_line(error: Exception) -> str:
    """Return the first line of an exception's message."""
    return str(error).strip().partition("\n")[0]
