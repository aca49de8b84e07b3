"""What all choices of a method share: a frozen record that is known by its `kind`."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

Named = Field(strict=False)
"""Enum fields read strings even though the records are strict about numbers."""


class Choice(BaseModel):
    """One of the alternatives for a part of a method, with the fields that only this alternative has.

    kind: the name by which recipes choose it. source: the paper, empty where there is none to cite.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    kind: str
    source: ClassVar[str] = ""

    def __str__(self) -> str:
        """Return the kind: the short form of a recipe."""
        return self.kind


def by_kind(union: Any) -> dict[str, Any]:
    """Return the records of a discriminated union by their kind, in its order."""
    members = get_args(get_args(union)[0])
    return {member.model_fields["kind"].default: member for member in members}


def refusal(key: str, reason: str, remedy: str, also: str = "") -> PydanticCustomError:
    """Return what a validator raises for values that do not go together. key: the one to change, within its section.
    also: another key whose value contradicts it.
    """
    return PydanticCustomError(
        "refused", "{reason}; {remedy}", {"key": key, "reason": reason, "remedy": remedy, "also": also}
    )
