"""Bars on a terminal: one for training, and one for other work while that lasts."""

from __future__ import annotations

import contextlib
import io
from typing import cast

import pytest
from rich.console import Console
from rich.live import Live

from reflora_cli.console import terminal
from reflora_cli.console.reporter import StepRecord, Work
from reflora_cli.console.terminal import RichReporter

STEP = StepRecord(4, 0.5, 1.25, 1e-3, 1.0, 100.0)


@pytest.fixture
def reporter(monkeypatch: pytest.MonkeyPatch) -> RichReporter:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(terminal, "terminal_console", lambda: console)
    return RichReporter()


def seen(reporter: RichReporter) -> str:
    """What the display shows now."""
    assert reporter.live is not None
    console = Console(file=io.StringIO(), width=120)
    console.print(reporter.progress)
    return cast(io.StringIO, console.file).getvalue()


def test_an_evaluation_has_its_own_bar_and_then_training_s_stands_alone(reporter: RichReporter) -> None:
    reporter.begin(0, 20)
    reporter.step(STEP)
    with reporter.counting(Work("scoring validation [a]", 50)) as tell:
        tell(30, lambda: "accuracy 0.7500")
        during = seen(reporter)
    after = seen(reporter)
    for words in ("train", "4/20", "loss 1.2500", "scoring validation [a]", "30/50", "accuracy 0.7500"):
        assert words in during, during
    assert "scoring" not in after
    assert "4/20" in after
    reporter.end()
    assert reporter.live is None


def test_work_outside_of_training_leaves_no_display(reporter: RichReporter) -> None:
    with contextlib.suppress(KeyboardInterrupt), reporter.counting(Work("scoring", 50, before=10)) as tell:
        assert "10/50" in seen(reporter)
        live = cast(Live, reporter.live)
        tell(20)
        raise KeyboardInterrupt
    assert reporter.live is None
    assert not live.is_started


def test_a_score_is_computed_only_when_it_is_shown(reporter: RichReporter) -> None:
    computed = []
    with reporter.counting(Work("scoring", 50)) as tell:
        for done in range(20):
            tell(done, lambda: str(computed.append(1)))  # type: ignore[func-returns-value]
    assert len(computed) < 3
