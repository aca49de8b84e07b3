"""The picture of a run: what is drawn and marked in it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib.axes
import matplotlib.figure
import pytest

from reflora_cli.methods.method import Method
from reflora_cli.recipe.sections import ModelSection, Recipe, TrainSection
from reflora_cli.recipe.task_section import TaskSection
from reflora_cli.training.curves import Curves, draw_curves
from reflora_cli.training.marks import Mark, marks


def step(number: int, loss: float, **more: float) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss, "learning_rate": 1e-3, **more}


def evaluation(number: int, **scores: float) -> dict[str, Any]:
    return {"event": "evaluation", "step": number, "split": "validation", **scores}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn meanwhile."""
    made: list[Any] = []

    class Kept(matplotlib.figure.Figure):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(matplotlib.figure, "Figure", Kept)
    return made


def draw(tmp_path: Path, lines: list[dict[str, Any]], curves: Curves) -> dict[str, bytes]:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return draw_curves(path, curves)


def labels(axes: matplotlib.axes.Axes) -> list[str]:
    return [str(text) for text in axes.get_legend_handles_labels()[1]]


def test_a_short_run_is_drawn_as_it_is(tmp_path: Path, figures: list[Any]) -> None:
    lines = [evaluation(0, accuracy=0.5, loss=0.7), *(step(10 * n, 1 / n) for n in range(1, 5)),
             evaluation(40, accuracy=0.75, loss=0.4)]  # fmt: skip
    images = draw(tmp_path, lines, Curves("accuracy", "a $ run\u4e2d", 40))
    assert images["png"].startswith(b"\x89PNG")
    assert ElementTree.fromstring(images["svg"]).tag.endswith("svg")
    assert images == draw(tmp_path, lines, Curves("accuracy", "a $ run\u4e2d", 40))
    loss, score, rate = figures[0].axes
    assert labels(loss) == ["training", "validation"]
    assert [list(line.get_xdata()) for line in loss.get_lines()] == [[10, 20, 30, 40], [0, 40]]
    assert [text.get_text() for text in score.texts] == ["0.75"]
    assert rate.get_ylabel() == "learning rate"
    assert not figures[0].legends


def test_a_long_run_has_a_smoothed_line_and_room_for_it(tmp_path: Path, figures: list[Any]) -> None:
    lines = [step(n, 1 + math.sin(n) / 10, budget=100 - n // 10) for n in range(1, 801)]
    lines[400]["loss"] = 90.0
    draw(tmp_path, lines, Curves("accuracy", "a run"))
    loss, _, budget = figures[0].axes
    assert labels(loss) == ["training", "training, median of 21 logged values", "higher: 1 values, up to 90"]
    assert loss.get_ylim()[1] < 2
    assert list(budget.get_lines()[0].get_ydata()) == [line["budget"] for line in lines]


def test_marks_and_continuations_are_in_every_panel_and_in_the_legend(tmp_path: Path, figures: list[Any]) -> None:
    lines = [step(n, 1.0) for n in (10, 20)]
    found = [Mark(5, "begins", "#000000", ":"), Mark(20, "best", "#000000", "--")]
    draw(tmp_path, lines, Curves("accuracy", "a run", 20, found, [10, 10]))
    for axes in figures[0].axes:
        assert [list(line.get_xdata()) for line in axes.get_lines() if line.get_label() == "begins"] == [[5, 5]]
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["begins", "best", "continued after step 10"]


def recipe_of(warmup_steps: int, **method: Any) -> Recipe:
    return Recipe(
        model=ModelSection(name="builtin:tiny-llama"),
        method=Method(**method),
        task=TaskSection(name="builtin/entailment"),
        train=TrainSection(steps=100, warmup_steps=warmup_steps),
    )


def test_what_is_marked_is_asked_of_the_recipe() -> None:
    """Whatever the rule is that acts after a warm-up."""
    for name in ("reflora", "balanced"):
        timed = recipe_of(7, name="lora", update={"kind": name, "warmup_steps": 9})
        assert [(mark.step, mark.label) for mark in marks(timed, 50)] == [
            (7, "learning rate at its peak after step 7"),
            (9, f"{name} acts after step 9"),
            (50, "best evaluation after step 50"),
        ]
    assert marks(recipe_of(0, name="lora"), None) == []
