"""What is shown fits into a narrow terminal, and its numbers are all there."""

from __future__ import annotations

import io
import re
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from reflora_cli.console import terminal
from reflora_cli.console.layout import fitting, parts_of, shortened_name
from reflora_cli.console.reporter import EvaluationRecord, StepRecord, Work
from reflora_cli.console.terminal import RichReporter, tables

LONG = "runs/commonsense-llama3-8b-reflora-rank32-alpha64-seed12345"
SCORES = {
    "bleu": 61.2345, "chrf": 70.1234, "rouge1": 55.4321, "rouge2": 33.2211, "rougeL": 44.1122,
    "exact_match": 12.3456, "cut": 0.0, "accuracy_by_character": 0.8125,
}  # fmt: skip
WIDTHS = [60, 80, 120]


@pytest.fixture(params=WIDTHS)
def console(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    console = Console(file=io.StringIO(), width=request.param)
    monkeypatch.setattr(terminal, "terminal_console", lambda: console)
    return console


def printed(console: Console) -> str:
    """What was printed, of which no line is too long."""
    text = cast(io.StringIO, console.file).getvalue()
    assert text
    assert max(map(len, text.splitlines())) <= console.width
    return text


def test_a_line_of_progress_keeps_how_much_there_is_and_the_time_left(console: Console) -> None:
    reporter = RichReporter()
    reporter.progress.get_time = lambda: 100.0
    task = reporter.progress.add_task(f"scoring {LONG}", total=123_456, completed=0, pieces=())
    reporter.task = task
    reporter.progress.update(task, completed=0)
    reporter.progress.get_time = lambda: 160.0
    reporter.step(StepRecord(61_728, 0.5, 1.25, 1e-3, 1.0, 100.0))
    console.print(reporter.progress)
    text = printed(console)
    (line,) = text.splitlines()
    assert " 61728/123456 " in line
    assert re.search(r" \d+:\d\d:\d\d|-:--:--", line)
    assert "loss 1.2500" in line or console.width < 80
    assert line.startswith("scoring ru") or console.width < 80
    for cut in ("loss", "epoch", "lr"):
        assert cut not in line or re.search(rf"{cut} [\d.e+-]*\d( |$)", line)


def test_every_score_of_an_evaluation_is_shown_whole(console: Console) -> None:
    reporter = RichReporter()
    reporter.evaluations(
        [EvaluationRecord(500, split, SCORES, split == "validation") for split in ("validation", LONG)]
    )
    text = printed(console)
    for value in SCORES.values():
        assert len(re.findall(rf"\b{value:.4f}\b", text)) == 2
    assert "12345" in text, "the end of a long name tells it from others"


def test_wide_tables_are_divided_and_their_numbers_whole(console: Console) -> None:
    columns = ["run", "steps", "loss", "seconds", "memory", "parameters", "rate", "note"]
    row = [LONG, "12,345", "0.123456", "98765.4", "1234567890", "184,422,912", "3.0e-04", "a text of many words " * 4]
    terminal.terminal_table("comparison", columns, [row])
    text = printed(console)
    for cell in row[1:-1]:
        assert text.count(cell) == 1
    assert text.count("many") == 4


def test_facts_and_errors_fit(console: Console) -> None:
    reporter = RichReporter()
    reporter.facts(
        "plan", {"an unusually long name of a fact that nobody reads": "123,456 of 184,422,912", "run": LONG}
    )
    terminal.terminal_error("Wrong input", f"the file already exists\n  found: {LONG}")
    text = printed(console)
    for number in ("123,456", "184,422,912"):
        assert number in text
    assert "".join(re.findall(r"[\w/-]", text)).count("seed12345") == 2


def test_work_that_is_counted_says_how_much_there_is(console: Console) -> None:
    reporter = RichReporter()
    with reporter.counting(Work(f"scoring {LONG}", 5000)) as tell:
        tell(1234, lambda: "accuracy 0.7500")
        shown = Console(file=io.StringIO(), width=console.width)
        shown.print(reporter.progress)
    assert "1234/5000" in printed(shown)


def test_names_lose_their_middle() -> None:
    assert shortened_name(LONG, 21) == "runs/commo…-seed12345"
    assert shortened_name("short", 21) == "short"


def test_pieces_are_shown_whole_or_not_at_all() -> None:
    pieces = ("loss 1.2500", "", "epoch 0.50", "lr 1.0e-03")
    assert fitting(pieces, 80) == "loss 1.2500  epoch 0.50  lr 1.0e-03"
    assert fitting(pieces, 24) == "loss 1.2500  epoch 0.50"
    assert fitting(pieces, 10) == ""


CELLS = st.one_of(
    st.integers(0, 10**9).map(lambda value: f"{value:,}"), st.floats(0, 1).map(lambda value: f"{value:.4f}")
)


@settings(deadline=None, max_examples=60)
@given(
    width=st.sampled_from(WIDTHS),
    rows=st.integers(1, 9).flatmap(lambda count: st.lists(st.lists(CELLS, min_size=count, max_size=count), min_size=1)),
)
def test_any_table_of_numbers_keeps_them(width: int, rows: list[list[str]]) -> None:
    columns = ["name", *(f"a_rather_long_column_{place}" for place in range(len(rows[0])))]
    named = [[f"{LONG}{number}", *row] for number, row in enumerate(rows)]
    parts = parts_of(columns, named, width)
    assert sorted(place for part in parts for place in part.columns[1:]) == [*range(1, len(columns))]
    console = Console(file=io.StringIO(), width=width)
    for table in tables("t", columns, named, width):
        console.print(table)
    shown = printed(console).split()
    for cell in {cell for row in rows for cell in row}:
        assert shown.count(cell) >= sum(row.count(cell) for row in rows)
