"""Write a report as Markdown with its figures beside it."""

from __future__ import annotations

import re

from reflora_cli.reporting.document import Document, Figure, Section, Table, Text

SPECIAL = re.compile(r"([\\`*_\[\]<>|~])")
FOLDER = "figures"
"""The folder of the figures."""


def markdown(document: Document) -> str:
    """Return the whole report; figures are read from `figures/`."""
    parts = [f"# {escaped(document.title)}", escaped(document.subtitle), *map(section, document.sections)]
    return "\n\n".join(filter(None, parts)) + "\n"


def section(own: Section) -> str:
    """Return one section."""
    parts = [
        f"## {escaped(own.title)}",
        *map(escaped, own.paragraphs),
        *map(table, own.tables),
        *map(figure, own.figures),
    ]
    return "\n\n".join(parts)


def table(own: Table) -> str:
    """Return a table under its caption, numbers on the right."""
    rules = ["---"] * own.texts + ["---:"] * (len(own.header) - own.texts)
    lines = [[escaped(name) for name in own.header], rules, *([cell(one) for one in row] for row in own.rows)]
    return "\n".join([f"*{escaped(own.caption)}*", "", *("| " + " | ".join(line) + " |" for line in lines)])


def cell(own: Text) -> str:
    """Return one cell."""
    return f"**{escaped(own.text)}**" if own.is_bold else escaped(own.text)


def figure(own: Figure) -> str:
    """Return a figure with its caption."""
    return f"![{escaped(own.caption)}]({FOLDER}/{own.name}.png)\n\n*{escaped(own.caption)}*"


def escaped(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line."""
    return SPECIAL.sub(r"\\\1", " ".join(text.split()))
