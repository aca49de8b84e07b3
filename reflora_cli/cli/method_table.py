"""The table of all methods, with what each trains and costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from reflora_cli.cli.list import cell
from reflora_cli.cli.opening import opened

if TYPE_CHECKING:
    from reflora_cli.methods.measured import Measured
    from reflora_cli.methods.method import Method


def show_all(base: str | None, rank: int | None) -> dict[str, Any]:
    """Show a table of presets, and return it for `--json`."""
    reporter = opened("the shapes of the base")
    from reflora_cli.console.output import show_table
    from reflora_cli.methods.describe import described, listed
    from reflora_cli.methods.measured import measured
    from reflora_cli.methods.presets import PRESETS
    from reflora_cli.model.counting import USUAL_BASE, counts

    found = [described(preset) for preset in PRESETS]
    costs, place = measured(), base or USUAL_BASE
    trained = counts(place, {own.name: method_of(own.name, rank) for own in found})
    rows = [
        {
            "preset": own.name,
            **{part.axis: part.kind for part in own.parts},
            "further": ", ".join(f"{key} {value}" for key, value in own.settings.items()),
            "parameters": trained[own.name],
            **cost_of(costs, own.name),
            "goes with": listed(own),
            "source": own.source,
        }
        for own in found
    ]
    show_table(f"methods, parameters trained on {place}", list(rows[0]), [[*map(cell, row.values())] for row in rows])
    if costs.setting:
        reporter.note(f"time of a step and memory for training, as multiples of LoRA's: {costs.setting}")
    return {"base": place, "measured_on": costs.setting, "methods": rows}


def method_of(name: str, rank: int | None) -> Method:
    """Return a preset as a method, at a rank if it has one."""
    from reflora_cli.methods.method import Method

    method = Method(name=name)
    return method if rank is None or not method.layer.counts("rank") else Method(name=name, rank=rank)


def cost_of(costs: Measured, name: str) -> dict[str, float | None]:
    """Return the columns of what a preset costs; none where nothing was measured."""
    if not costs.costs:
        return {}
    own = costs.costs.get(name)
    return {"time": own.time if own else None, "memory": own.memory if own else None}
