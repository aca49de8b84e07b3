"""`reflora report`: runs that were trained, through the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from tests.cli.conftest import Reflora, train
from tests.unit.reporting.made_runs import Made, make_run

TINY = {
    "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
    "method": {"name": "lora", "rank": 2},
    "task": {"name": "builtin/entailment", "max_length": 48, "max_train_rows": 32, "max_eval_rows": 20},
    "train": {"steps": 3, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 3e-3, "log_every": 1},
}


@pytest.fixture(scope="module")
def runs(reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods under two seeds; not to be changed."""
    root = tmp_path_factory.mktemp("compared")
    recipe = root / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    for method in ("lora", "dora"):
        for seed in (0, 1):
            train(reflora, recipe, root / "runs" / f"{method}-{seed}", f"method.name={method}", f"train.seed={seed}")
    return root / "runs"


def test_trained_runs_are_compared(reflora: Reflora, runs: Path, tmp_path: Path) -> None:
    outcome = reflora("report", runs, "--output", tmp_path / "out", "--json")
    assert outcome.status == 0, outcome.err
    scores = [
        json.loads((runs / f"dora-{seed}" / "results.json").read_text())["scores"]["validation"]["accuracy"]
        for seed in (0, 1)
    ]
    (group,) = outcome.json["groups"]
    (row,) = [row for row in group["rows"] if row["setting"] == "dora"]
    assert row["cells"][0]["mean"] == pytest.approx(50 * sum(scores))
    assert group["baseline"] == "lora"
    assert len(pd.read_csv(tmp_path / "out" / "runs.csv")) == 4
    assert max(map(len, table_of(outcome.err))) <= 80
    assert "fewer than 3 seeds are common" in outcome.err


def table_of(text: str) -> list[str]:
    """Return the lines of the table."""
    lines = text.splitlines()
    begin = next(place for place, line in enumerate(lines) if line.startswith("mean ±"))
    return lines[begin : begin + 4]


def test_runs_that_were_never_scored_have_a_report(reflora: Reflora, tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", Made(extra={"scores": None}))
    outcome = reflora("report", tmp_path / "runs", "--format", "json")
    assert outcome.status == 0, outcome.err
    assert "1 run scored nothing" in outcome.err


def test_the_report_lies_beside_the_runs_and_can_be_made_again(reflora: Reflora, runs: Path, tmp_path: Path) -> None:
    place = shutil.copytree(runs, tmp_path / "runs")
    (place / "dora-1" / "results.json").unlink()
    for _ in range(2):
        outcome = reflora("report", place, "--format", "csv", "--baseline", "dora")
        assert outcome.status == 0, outcome.err
    assert outcome.out == ""
    assert "3 finished runs, 0 of tuning, 1 unfinished" in outcome.err
    assert sorted(path.name for path in (place / "report").iterdir()) == ["report.csv", "report.json", "runs.csv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "there is no such directory"),
        (["{runs}", "--baseline", "lorra"], "did you mean 'lora' or 'dora'?"),
        (["{runs}", "--by", "method.rang"], "did you mean 'method.rank'"),
        (["{runs}", "--output", "{runs}"], "is no report"),
        (["{runs}", "--format", "pdf"], "one of md, latex, csv"),
        (["{empty}"], "no finished run is here"),
    ],
)
def test_wrong_input_is_one_message(
    reflora: Reflora, runs: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    given = [part.format(runs=runs, empty=tmp_path) for part in arguments]
    outcome = reflora("report", *given)
    assert outcome.status == 2
    assert said in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    assert not (runs / "report").exists()
