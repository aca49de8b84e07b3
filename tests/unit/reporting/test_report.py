"""The files of a report: whole, true to the numbers, and safe to open."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reflora_cli.console.reporter import SILENT
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import ReportFormat
from reflora_cli.reporting.document import Document, Section, Text, make_table
from reflora_cli.reporting.latex import escaped as latex_escaped
from reflora_cli.reporting.latex import latex
from reflora_cli.reporting.markdown import markdown
from reflora_cli.reporting.page import page
from reflora_cli.reporting.report import Report, write_report
from tests.unit.reporting.made_runs import Made, make_comparison, make_run, make_runs

RATES = {"lora": {1e-3: 0.5, 1e-2: 0.6}, "reflora": {1e-3: 0.5, 3e-3: 0.8, 1e-2: 0.4}}
SCORES = {"lora": [0.50, 0.52, 0.51, 0.53, 0.50], "reflora": [0.60, 0.63, 0.60, 0.63, 0.61]}
NASTY = r"<b>a|b & 50% of $x_1^2$ #{}\~"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of a comparison; not to be changed."""
    place = tmp_path_factory.mktemp("report")
    make_comparison(place / "c", RATES, SCORES)
    (make_run(place / "c" / "runs" / "failed", Made(seed=9)) / "results.json").unlink()
    return write_report([place / "c"], place / "out", None, SILENT)


class Page(HTMLParser):
    """What of a page would load something, and whether its tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in {"meta", "img", "br", "link"}:
            self.open.append(tag)
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_all_files_are_written(made: Report) -> None:
    files = {path.relative_to(made.output).as_posix() for path in made.output.rglob("*") if path.is_file()}
    figures = {
        f"figures/{name}.{kind}"
        for name in ("scores", "rates", "losses", "evaluations", "cost")
        for kind in ("png", "svg")
    }
    assert files == {"report.md", "report.tex", "report.csv", "report.json", "report.html", "runs.csv", *figures}
    assert all((made.output / name).read_bytes().startswith(b"\x89PNG") for name in figures if name.endswith("png"))


def test_the_page_loads_nothing_and_runs_nothing(made: Report) -> None:
    text = (made.output / "report.html").read_text(encoding="utf-8")
    parsed = Page()
    parsed.feed(text)
    parsed.close()
    assert parsed.open == []
    assert len(parsed.loads) == 5
    assert all(value.startswith("data:image/svg+xml;base64,") for value in parsed.loads)
    assert not {"script", "link", "iframe", "object"} & {*parsed.tags}
    assert not re.search(r"url\(|@import|https?://", text)
    assert "prefers-color-scheme: dark" in text
    assert parsed.tags.count("caption") == parsed.tags.count("table") > 3


def test_the_same_numbers_are_in_every_format(made: Report) -> None:
    mean, sd = 100 * np.mean(SCORES["reflora"]), 100 * np.std(SCORES["reflora"], ddof=1)
    shown = f"{mean:.2f} ± {sd:.2f} (5)"
    texts = {name: (made.output / f"report.{name}").read_text(encoding="utf-8") for name in ("md", "tex", "html")}
    assert f"**{shown}**" in texts["md"]
    assert r"\textbf{" + shown.replace("±", r"$\pm$") + "}" in texts["tex"]
    assert f"<strong>{shown}</strong>" in texts["html"]
    (row,) = [row for row in made.summary() if row["setting"] == "reflora"]
    assert row["score"] == f"{shown} *"


def test_csv_comes_back_through_pandas(made: Report) -> None:
    frame = pd.read_csv(made.output / "report.csv").set_index("setting")
    assert frame.loc["reflora", "mean"] == pytest.approx(100 * np.mean(SCORES["reflora"]), rel=1e-15)
    assert frame.loc["reflora", "train.learning_rate"] == 3e-3
    assert bool(frame.loc["reflora", "shown_to_be_best"])
    assert pd.isna(frame.loc["lora", "difference"])
    runs = pd.read_csv(made.output / "runs.csv")
    assert len(runs) == 10 + 5
    own = runs[(runs["method"] == "lora") & (runs["stage"] == "final")].sort_values("seed")
    assert list(own["score.test.accuracy"]) == SCORES["lora"]
    assert set(own["method.rank"]) == {8}


def test_json_has_everything(made: Report) -> None:
    record = json.loads((made.output / "report.json").read_text(encoding="utf-8"))
    (group,) = record["groups"]
    assert (group["baseline"], len(record["runs"])) == ("lora", 15)
    (difference,) = group["differences"]
    assert difference["difference"] == pytest.approx(100 * (np.mean(SCORES["reflora"]) - np.mean(SCORES["lora"])))
    assert [edge["row"] for edge in group["edges"]] == ["lora"]
    assert [Path(own["run"]).name for own in record["unfinished"]] == ["failed"]


def test_the_words_say_what_is_shown_and_what_was_left_out(made: Report) -> None:
    words = " ".join(made.words)
    assert "Shown to be better than lora: reflora" in words
    assert "reflora is shown to be best" in words
    assert "tuning chose for lora the largest learning rate of 3" not in words, "lora was tried at two rates"
    assert "tuning chose for lora the largest learning rate of 2" in words
    assert "1 run is unfinished or failed" in words


def test_a_report_is_the_same_when_it_is_made_again(made: Report, tmp_path: Path) -> None:
    place = made.output.parent / "c"
    again = write_report([place], tmp_path / "out", None, SILENT)
    for path in (path for path in made.output.rglob("*") if path.is_file() and path.name != "report.json"):
        assert (again.output / path.relative_to(made.output)).read_bytes() == path.read_bytes(), path.name


def test_an_earlier_report_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    runs, output = make_runs(tmp_path / "runs", {"lora": [0.5]}), tmp_path / "out"
    write_report([runs], output, None, SILENT, formats=[ReportFormat.CSV])
    make_run(runs / "more", Made("dora"))
    write_report([runs], output, None, SILENT, formats=[ReportFormat.MD])
    assert {path.name for path in output.iterdir()} == {"report.json", "report.md", "figures"}
    assert "dora" in (output / "report.md").read_text(encoding="utf-8")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "out"}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="is no report"):
        write_report([runs], tmp_path / "mine", None, SILENT)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_report_beneath_its_runs_is_made_again(tmp_path: Path) -> None:
    runs = make_runs(tmp_path / "runs", {"lora": [0.5, 0.6]})
    for _ in range(2):
        report = write_report([runs], runs / "report", None, SILENT, formats=[ReportFormat.JSON])
    assert len(report.found.runs) == 2


def test_odd_runs_make_a_report(tmp_path: Path) -> None:
    """Runs that diverged, without evaluations or logs, on several bases and devices."""
    make_run(tmp_path / "a", Made(score=float("nan")))
    make_run(tmp_path / "b", Made("dora", extra={"scores": None}, losses=()))
    make_run(tmp_path / "c", Made("dora", device="NVIDIA H100", seed=1))
    make_run(tmp_path / "d", Made(base_hash="b2", score=-0.5))
    (make_run(tmp_path / "e", Made("pissa")) / "metrics.jsonl").unlink()
    report = write_report([tmp_path], tmp_path / "report", None, SILENT)
    words = " ".join(report.words)
    assert "Runs without a finite score are left out: 1 of lora" in words
    assert "1 run scored nothing" in words
    assert "The runs differ in device: NVIDIA H100 (1 run), cpu, x86_64, 1 thread (3 runs)" in words
    assert (report.output / "figures" / "1-scores.png").exists()
    assert (report.output / "figures" / "2-scores.png").exists()
    json.loads((report.output / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_texts_are_escaped_in_every_format() -> None:
    table = make_table(NASTY, ("setting", NASTY), [(NASTY, Text(NASTY, True))])
    document = Document(NASTY, NASTY, (Section(NASTY, (NASTY,), (table,)),))
    assert "<b>" not in page(document)
    assert "&lt;b&gt;a|b &amp; 50%" in page(document)
    row = next(line for line in markdown(document).splitlines() if line.startswith("| \\<b"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 3, "two cells have three bars"
    tag, formula = r"\textless{}b\textgreater{}a\textbar{}b", r"\$x\_1\textasciicircum{}2\$"
    escaped = rf"{tag} \& 50\% of {formula} \#\{{\}}\textbackslash{{}}\textasciitilde{{}}"
    assert latex_escaped(NASTY) == escaped
    assert latex(document).count(escaped) == 2 + 2 + 4, "two titles, two of the section, caption and three cells"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_compiles_by_itself(made: Report, tmp_path: Path) -> None:
    place = shutil.copytree(made.output, tmp_path / "out")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (place / "report.pdf").exists()
