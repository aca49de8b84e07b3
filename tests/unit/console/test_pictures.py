"""Looks and files of figures."""

from __future__ import annotations

from matplotlib.figure import Figure

from reflora_cli.console.pictures import COLOURS, images, looks, plain


def figure() -> Figure:
    made = Figure(layout="constrained")
    made.subplots().plot([1, 2], [3, 4], label="a line")
    made.legend(loc="outside lower center")
    return made


def test_equal_numbers_make_equal_files() -> None:
    one, other = images(figure(), 100), images(figure(), 100)
    assert one == other
    assert one["png"].startswith(b"\x89PNG")
    assert b"<svg" in one["svg"]
    assert b"dc:date" not in one["svg"]


def test_more_labels_than_colours_look_different() -> None:
    found = looks(map(str, range(3 * len(COLOURS))))
    assert len(set(found.values())) == 3 * len(COLOURS)
    assert looks(["a", "b", "a"]) == looks(["a", "b"])


def test_names_are_short_and_no_formulas() -> None:
    assert plain("costs $5") == r"costs \$5"
    assert plain("x" * 50) == "x" * 37 + "..."
    assert plain("tab\there\u4e00") == "tab?here?"
