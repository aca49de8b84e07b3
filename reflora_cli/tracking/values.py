"""Name the numbers of a line of `metrics.jsonl` as trackers show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tracked_values(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line by name; empty for a line that is not for trackers.

        train/NAME               of a logged step: loss, learning_rate, gradient_norm, ...
        eval/SPLIT/NAME          scores
        health/MODULE/NAME       of every adapter, and health/plain: how many of them stepped plainly

    A value that is no finite number, which the log has as null, is left out.
    """
    match record["event"]:
        case "step":
            return numbers("train", {key: value for key, value in record.items() if key != "step"})
        case "evaluation":
            own = {key: value for key, value in record.items() if key not in ("step", "split")}
            return numbers(f"eval/{record['split']}", own)
        case "health":
            modules = [numbers(f"health/{name}", own) for name, own in record["modules"].items()]
            found = {key: value for own in modules for key, value in own.items()}
            return {**found, "health/plain": len(record["plain"])}
        case _:
            return {}


def numbers(group: str, values: Mapping[str, Any]) -> dict[str, float]:
    """Return those of the values that are numbers, with the group before their names."""
    return {f"{group}/{key}": value for key, value in values.items() if isinstance(value, int | float)}
