"""Keep all that the study has found in one compressed file of JSON lines."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from matrix_results import Result


@dataclass(frozen=True)
class Data:
    """What the study has found. results: by setting and method. gauge: how far two paths get apart. published: losses
    of the paper's figure. seconds: of one core."""

    results: Mapping[tuple[str, str], Result]
    gauge: Sequence[Mapping[str, Any]]
    published: Sequence[Mapping[str, Any]]
    seconds: int


def write_data(path: Path, data: Data) -> None:
    """Write one line for each finding; `kind` says what it is."""
    rows: list[Mapping[str, Any]] = [{"kind": "run", "seconds": data.seconds}]
    rows += [{"kind": "result", **asdict(own)} for own in data.results.values()]
    rows += [{"kind": "gauge", **own} for own in data.gauge]
    rows += [{"kind": "published", **own} for own in data.published]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(lzma.compress(text.encode(), preset=9))


def read_data(path: Path) -> Data:
    """Return what was written."""
    lines = [json.loads(line) for line in lzma.decompress(path.read_bytes()).decode().splitlines()]
    kinds: dict[str, list[dict[str, Any]]] = {"run": [], "result": [], "gauge": [], "published": []}
    for line in lines:
        kinds[line.pop("kind")].append(line)
    results = [Result(**own) for own in kinds["result"]]
    return Data(
        {(own.setting, own.variant): own for own in results},
        kinds["gauge"],
        kinds["published"],
        kinds["run"][0]["seconds"],
    )
