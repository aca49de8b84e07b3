"""Write the report: a template in which every `<!-- table: NAME -->` is replaced by a table, and the figures."""

from __future__ import annotations

import re
from pathlib import Path

from matrix_data import Data
from matrix_figures import FIGURES
from matrix_tables import tables

TEMPLATE = Path(__file__).with_name("matrices.template.md")
PLACE = re.compile(r"<!-- table: ([a-z ]+) -->")


def report(data: Data) -> str:
    """Return the report. Raises KeyError where the template names a table that there is not."""
    made = tables(data)
    return PLACE.sub(lambda found: made[found[1]], TEMPLATE.read_text(encoding="utf-8"))


def write_report(output: Path, data: Data) -> None:
    """Write `matrices.md` and its figures."""
    (output / "matrices.md").write_text(report(data), encoding="utf-8")
    for name, draw in FIGURES.items():
        draw(data, output / name)
