"""What `make bench` and `make gpu` have in common: options, the parts in turn, and the files of what was found."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from tests.benchmarks.measured import machine
from tests.benchmarks.parts import Outcome, Part, run_all


def add_options(parser: argparse.ArgumentParser, output: str) -> None:
    """Add the options of both. output: the JSON file unless another one is given."""
    parser.add_argument("--output", type=Path, default=Path(output))
    parser.add_argument("--parts", nargs="+", default=None)
    parser.add_argument("--date", default=None)


def wanted(parser: argparse.ArgumentParser, known: Mapping[str, Part], names: list[str] | None) -> dict[str, Part]:
    """Return the parts of these names, or all. Ends the program where a name is unknown."""
    if unknown := set(names or ()) - set(known):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return {name: own for name, own in known.items() if names is None or name in names}


def run_shown(parts: Mapping[str, Part], limit: float, output: Path) -> dict[str, Outcome]:
    """Run the parts, within `limit` seconds together. Each is shown on stderr and in the files as soon as it ends."""
    found: dict[str, Outcome] = {}
    for name, outcome in run_all(parts, limit):
        found[name] = outcome
        print(outcome.shown(name), file=sys.stderr, flush=True)
        report(output, found)
    return found


def report(output: Path, found: Mapping[str, Outcome]) -> None:
    """Write what was found so far: all figures as JSON, and beside it what the parts printed as Markdown."""
    parts = {
        name: {"status": own.status, "seconds": own.seconds, "figures": own.figures} for name, own in found.items()
    }
    content = {"machine": machine(), "torch": torch.__version__, "parts": parts}
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    tables = "\n".join(own.shown(name) for name, own in found.items())
    title = f"# {machine()}, torch {torch.__version__}"
    output.with_suffix(".md").write_text(f"{title}\n\n{tables}", encoding="utf-8")
