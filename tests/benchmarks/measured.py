"""The tables of docs/measured.md, rendered from the figures in docs/measured/*.json.

    python -m tests.benchmarks.measured             renders all tables
    python -m tests.benchmarks.measured --check     exits with 1 where a table and its figures disagree

A file holds one table: `head` is the title of its first column; `columns` has a title and a format for every key;
`rows` has the values of every row by key, where a list is what was found with each seed, shown as its mean and
standard deviation; beside them are `machine`, `date`, `torch`, `command` and `note`. In a page the table stands between
`<!-- measured: NAME -->` and `<!-- end -->`; `make bench` and `make gpu` write files and pages.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs" / "measured"
PAGES = (ROOT / "docs" / "measured.md", ROOT / "README.md")
BLOCK = re.compile(r"(<!-- measured: ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Cell = float | list[float] | dict[str, float] | None
"""A number; one for each seed; mean, deviation and seeds where only these were kept; None for what was not measured."""


@dataclass(frozen=True)
class Column:
    """A column's title, and the format of its values: `.2f`, or `.2f x` with what stands behind a value."""

    title: str
    format: str

    def shown(self, cell: Cell) -> str:
        """A value as text."""
        if cell is None:
            return "not measured"
        spec, _, unit = self.format.partition(" ")
        behind = f" {unit}" if unit else ""
        if isinstance(cell, list):
            deviation = statistics.stdev(cell) if len(cell) > 1 else 0.0
            cell = {"mean": statistics.mean(cell), "deviation": deviation, "seeds": float(len(cell))}
        if isinstance(cell, dict):
            spread = f" ± {cell['deviation']:{spec}}" if cell["seeds"] > 1 else ""
            return f"{cell['mean']:{spec}}{spread}{behind} ({cell['seeds']:.0f})"
        return f"{cell:{spec}}{behind}"


@dataclass(frozen=True)
class Table:
    """Figures as they were measured, and what is to be known of them."""

    columns: Mapping[str, Column]
    rows: Mapping[str, Mapping[str, Cell]]
    machine: str
    date: str
    torch: str
    command: str
    note: str = ""
    head: str = ""
    raw: object = field(default=None)

    def markdown(self) -> str:
        """The table in Markdown, without columns that have no value, and a line on where it was measured."""
        measured = {key for row in self.rows.values() for key, cell in row.items() if cell is not None}
        shown = {key: own for key, own in self.columns.items() if key in measured}
        rows = [[name, *(own.shown(row.get(key)) for key, own in shown.items())] for name, row in self.rows.items()]
        lines = [[self.head, *(own.title for own in shown.values())], *rows]
        first, *others = (f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)
        noted = f"; {self.note}" if self.note else ""
        caption = f"Measured on {self.machine}, {self.date}, torch {self.torch}{noted}."
        return "\n".join((first, "|" + "---|" * (1 + len(shown)), *others, "", *textwrap.wrap(caption, 120))) + "\n"


def read(name: str) -> Table:
    """The table of that name."""
    found = json.loads((FIGURES / f"{name}.json").read_text(encoding="utf-8"))
    return Table(**{**found, "columns": {key: Column(**own) for key, own in found["columns"].items()}})


def write(name: str, table: Table) -> None:
    """Keep a table's figures under that name."""
    text = json.dumps(asdict(table), indent=1, ensure_ascii=False)
    (FIGURES / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def machine(threads: int | None = None) -> str:
    """The device that computes: the GPU's name, or the CPU's kind and its threads; None: those that torch uses here."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    models = re.search(r"model name\s*: (.*)", cpuinfo())
    return f"{models.group(1) if models else platform.processor()}, {threads or torch.get_num_threads()} threads"


def cpuinfo() -> str:
    """What Linux says of the CPU; elsewhere nothing."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def rendered(text: str) -> str:
    """A page with every table made anew."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{read(found[2]).markdown()}\n{found[4]}", text)


def differing() -> Iterator[Path]:
    """The pages whose tables are not those of the figures."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if rendered(text) != text:
            yield page


def render() -> None:
    """Write all tables into their pages."""
    for page in list(differing()):
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.measured", description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        sys.exit("\n".join(f"{page}: its tables are not those of {FIGURES}" for page in differing()) or 0)
    render()


if __name__ == "__main__":
    main()
