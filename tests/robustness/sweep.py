"""Many architectures, tiny and random, through all that the product does: a table of what came of each.

    python -m tests.robustness.sweep [--only NAME ... --output sweep.json]

Every architecture is trained for six steps, evaluated in batches of 1 and of 8, merged, exported, and read by PEFT; or
it is refused before the first step. Each has a process of its own, so that what breaks loses one row. A row fails that
has any other error, or a difference. Exit status 1 when one does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.architectures import DECODER_CLASSIFIERS, DECODERS, ENCODERS, Architecture
from tests.robustness.lifecycle import Outcome, Setting, as_json, lifecycle, passed, write_data

LONGEST = 300.0
"""Seconds of one architecture."""
COLUMNS = {"train": "train", "batches": "batches of 1 and 8", "choices": "choices", "llm-adapters": "generation",
           "merge": "merge", "peft": "PEFT"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line of the table before it is filled."""

    name: str
    architecture: Architecture
    language: bool


def rows_of(only: Sequence[str]) -> list[Row]:
    """All rows, or those named."""
    rows = [
        *(Row(name, own, False) for name, own in ENCODERS.items()),
        *(Row(f"{name}-classifier", DECODERS[name], False) for name in DECODER_CLASSIFIERS),
        *(Row(name, own, True) for name, own in DECODERS.items()),
    ]
    unknown = sorted(set(only) - {row.name for row in rows})
    if unknown:
        raise SystemExit(f"no such architecture: {', '.join(unknown)}; known: {', '.join(row.name for row in rows)}")
    return [row for row in rows if not only or row.name in only]


def apart(row: Row, place: Path, data: Path) -> dict[str, Outcome]:
    """A row's stages in a process of its own."""
    pid, told = os.fork(), place.with_suffix(".json")
    if pid == 0:
        fill(row, place, data, told)
    begin = time.monotonic()
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() - begin > LONGEST:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    if told.exists():
        return {name: Outcome(**own) for name, own in json.loads(told.read_text()).items()}
    log = place.with_suffix(".log").read_text(errors="replace").strip().splitlines()
    status = os.waitstatus_to_exitcode(ended[1])
    return {"train": Outcome("broken", f"the process ended with {status}: {log[-1] if log else ''}")}


def fill(row: Row, place: Path, data: Path, told: Path) -> None:
    """The child's part; does not return."""
    stream = os.open(place.with_suffix(".log"), os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    try:
        found = as_json(lifecycle(row.architecture, Setting(place, data, row.language)))
        told.with_suffix(".part").write_text(json.dumps(found))
        told.with_suffix(".part").rename(told)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(0)


def table(found: Mapping[str, Mapping[str, Outcome]]) -> str:
    """Markdown: a line for each architecture, and what was said where a stage did not end well."""
    lines = [f"| architecture | {' | '.join(COLUMNS.values())} | |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, stages in found.items():
        cells = [cell(stages.get(column)) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if passed(stages) else '**fails**'} |")
    said = [
        f"* {name}, {COLUMNS[column]}, {own.ending}: {own.text}"
        for name, stages in found.items()
        for column, own in stages.items()
        if own.ending != "ok"
    ]
    return "\n".join([*lines, "", *said])


def cell(outcome: Outcome | None) -> str:
    """A stage as shown: its difference where it ended well, else how it ended."""
    if outcome is None:
        return ""
    return outcome.text if outcome.ending == "ok" else outcome.ending


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.sweep", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these architectures")
    parser.add_argument("--output", type=Path, help="a JSON file of all outcomes")
    chosen = parser.parse_args()
    for name in ("bitsandbytes", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        importlib.import_module(name)  # here once, and not in every row's process
    found: dict[str, dict[str, Outcome]] = {}
    with tempfile.TemporaryDirectory() as directory:
        base = Path(os.path.realpath(directory))
        data = write_data(base / "data")
        for number, row in enumerate(rows := rows_of(chosen.only)):
            begin, place = time.monotonic(), base / f"row-{number}"
            found[row.name] = apart(row, place, data)
            shutil.rmtree(place, ignore_errors=True)
            verdict = "as it should" if passed(found[row.name]) else "FAILS"
            print(f"{number + 1}/{len(rows)} {row.name}: {verdict}, {time.monotonic() - begin:.0f} s", file=sys.stderr)
            if chosen.output:
                chosen.output.write_text(json.dumps({name: as_json(own) for name, own in found.items()}, indent=1))
    print(table(found))
    failed = [name for name, own in found.items() if not passed(own)]
    refused = [name for name, own in found.items() if "merge" not in own and name not in failed]
    well = len(found) - len(failed) - len(refused)
    print(f"\n{len(found)} architectures: {well} do well, {len(refused)} are refused, {len(failed)} fail")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
