"""The files of an inspection: all numbers by module as JSON and CSV, and the figures."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reflora_cli.ground.atomic import readable_os_errors, write_file
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import exists, is_directory
from reflora_cli.inspecting.figures import FIGURES, drawn
from reflora_cli.inspecting.inspect import Inspection

NUMBERS, TABLE = "inspection.json", "inspection.csv"
OF_CSV = ("singular_values", "grid", "degrees", "missing")
"""What is a list, and is not in the table."""


def write(found: Inspection, directory: Path) -> tuple[str, ...]:
    """Write the files of an inspection, each whole or not at all, in the place of those of an earlier one; returns
    their names. Raises InputError where they cannot be written.
    """
    check_place(directory)
    content: dict[str, bytes | str] = {NUMBERS: json.dumps(as_json(found), allow_nan=False, indent=1) + "\n"}
    content |= {TABLE: as_csv(found), **drawn(found)}
    for name, own in content.items():
        write_file(directory / name, own)
    with readable_os_errors(directory):
        for name in FIGURES:
            if name not in content:
                (directory / name).unlink(missing_ok=True)  # an earlier inspection's, of other adapters
    return tuple(content)


def check_place(directory: Path) -> None:
    """Raises InputError where the files cannot go, before anything long is begun."""
    if exists(directory) and not is_directory(directory):
        remedy = "choose another --output"
        raise InputError(Problem("the output is a file; a directory is expected", str(directory), remedy=remedy))


def as_json(found: Inspection) -> dict[str, Any]:
    """Return all that was found."""
    return asdict(found)


def as_csv(found: Inspection) -> str:
    """Return a table with a line for every module; what is not known is empty."""
    pairs = {own.module: asdict(own) for own in found.pairs}
    rows = [dict(flat(asdict(own) | {"other": pairs.get(own.module)})) for own in found.modules]
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def flat(value: Mapping[str, Any], above: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the numbers and words of a nested record by their names, joined by dots."""
    for key, own in value.items():
        name = f"{above}{key}"
        if key in OF_CSV or name == "other.module":
            continue
        if isinstance(own, Mapping):
            yield from flat(own, f"{name}.")
        elif isinstance(own, Sequence) and not isinstance(own, str):
            yield name, " x ".join(map(str, own))
        elif own is not None:
            yield name, own
