"""Write numbers as the tables and sentences of a report have them."""

from __future__ import annotations

from reflora_cli.reporting.cells import Cell
from reflora_cli.reporting.settings import Column

MINUS, NONE = "−", "–"
"""The sign of negative numbers, and what stands where there is no number."""


def number(value: float | None, scale: float, *, signed: bool = False) -> str:
    """Return a score in the units of its column: two decimals of what is shown times 100, else four digits."""
    if value is None:
        return NONE
    places = f"{'+' if signed else ''}{'.2f' if scale == 100 else '.4g'}"
    text = format(value, places)
    if float(text) == 0:
        text = text.replace("-", "").replace("+", "")
    return text.replace("-", MINUS)


def spread(cell: Cell, scale: float) -> str:
    """Return mean ± standard deviation (n), without a deviation of one run."""
    if cell.mean is None:
        return "diverged" if cell.diverged else NONE
    sd = f" ± {number(cell.sd, scale)}" if cell.sd is not None else ""
    return f"{number(cell.mean, scale)}{sd} ({cell.n})"


def interval(found: tuple[float, float] | None, scale: float) -> str:
    """Return an interval."""
    return (
        NONE if found is None else f"{number(found[0], scale, signed=True)} to {number(found[1], scale, signed=True)}"
    )


def probability(p: float | None) -> str:
    """Return a p value."""
    if p is None:
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.001 else f"{p:.3f}"


def unit(column: Column, scale: float) -> str:
    """Return the name of a column's metric with its unit."""
    name = column.metric.replace("_", " ")
    return f"{name} × 100" if scale == 100 else name


def unit_word(scale: float) -> str:
    """Return what a difference in the column is counted in."""
    return " points" if scale == 100 else ""


def memory(count: float | None) -> str:
    """Return bytes as MiB."""
    return NONE if count is None else f"{count / 2**20:,.0f}"


def seconds(value: float) -> str:
    """Return seconds with three digits."""
    return f"{value:#.3g}".rstrip(".") if value < 999.5 else f"{value:,.0f}"
