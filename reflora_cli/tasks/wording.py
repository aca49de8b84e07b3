"""The wording of a prompt: a text with the names of a row's columns in braces, `Summarize: {dialogue}`.

Two braces in a row, `{{` and `}}`, are one that is written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from reflora_cli.tasks.prompts import Template

PARTS = re.compile(r"(?P<brace>\{\{|\}\})|\{(?P<column>[^{}\n]+)\}|(?P<stray>[{}])")
INSTRUCTION = "{instruction}"
AS_WRITTEN = Template(INSTRUCTION, INSTRUCTION + "\n{input}")
"""The template of those who ask with a whole prompt."""


def same(text: str) -> str:
    return text


@dataclass(frozen=True)
class Wording:
    """The text of a prompt with columns in braces.

    written: the function that makes what stands in the prompt from a cell; it raises ValueError for a bad cell.
    """

    text: str
    written: Callable[[str], str] = same

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names, each once, in the order of the text."""
        return tuple(dict.fromkeys(found["column"] for found in PARTS.finditer(self.text) if found["column"]))

    @property
    def stray(self) -> str | None:
        """The first brace that belongs to no column, with what follows it; None if there is none."""
        found = next((found for found in PARTS.finditer(self.text) if found["stray"]), None)
        return self.text[found.start() :] if found else None

    @property
    def is_instruction(self) -> bool:
        """Whether one text has one place in it, as an instruction in a template."""
        places = [found["column"] for found in PARTS.finditer(self.text) if found["column"]]
        return len(places) == 1 and INSTRUCTION not in replaced(self.text, {places[0]: ""})

    @property
    def template(self) -> Template:
        """The same for those who ask with one text: it has the place of the column, or is the whole prompt where the
        wording has several.
        """
        if not self.is_instruction:
            return AS_WRITTEN
        text = replaced(self.text, dict.fromkeys(self.columns, INSTRUCTION))
        return Template(text, text)

    @property
    def lead(self) -> str:
        """What stands between the prompt and an answer: a space, unless the prompt ends with white space."""
        return "" if self.text[-1:].isspace() else " "

    def fill(self, row: Mapping[str, Any]) -> str:
        """Return the prompt of a row. Braces inside its cells are left alone."""
        return replaced(self.text, {column: self.written(row[column]) for column in self.columns})


def replaced(text: str, values: Mapping[str, str]) -> str:
    """Return the text with values in the places of columns."""

    def part(found: re.Match[str]) -> str:
        return found[0][0] if found["column"] is None else values[found["column"]]

    return PARTS.sub(part, text)
