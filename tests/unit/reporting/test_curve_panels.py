"""Which curves are drawn in one panel."""

from __future__ import annotations

import pytest

from reflora_cli.console.pictures import looks
from reflora_cli.reporting.curve_panels import MOST_CURVES, Labels, draw_panels, panels_of
from reflora_cli.reporting.curves import Curve
from reflora_cli.reporting.drawing import styled


def curves(count: int) -> list[Curve]:
    """Return curves with the labels m0, m1, ..., of which each has values of its own."""
    return [
        Curve(f"m{own}", (1.0, 2.0), (own, own + 1.0), (own - 5.0 * own, own), (own, 9.0 * own), 3)
        for own in range(count)
    ]


def test_few_curves_share_a_panel() -> None:
    (panel,) = panels_of({"task": curves(MOST_CURVES), "empty": []}, "m0")
    assert (panel.part, len(panel.curves), panel.behind) == ("", MOST_CURVES, ())


@pytest.mark.parametrize("count", [MOST_CURVES + 1, 15, 16, 31])
@pytest.mark.parametrize("baseline", ["m3", None])
def test_each_of_many_curves_is_in_one_panel_beside_the_baseline(count: int, baseline: str | None) -> None:
    found = list(panels_of({"task": curves(count)}, baseline))
    assert all(len(panel.curves) <= MOST_CURVES for panel in found)
    assert all(baseline in [curve.label for curve in panel.curves] for panel in found if baseline)
    others = [curve.label for panel in found for curve in panel.curves if curve.label != baseline]
    assert sorted(others) == sorted(f"m{own}" for own in range(count) if f"m{own}" != baseline)
    assert [panel.part for panel in found] == [f" ({own} of {len(found)})" for own in range(1, len(found) + 1)]


def test_divided_panels_have_one_range_and_legends_of_their_own() -> None:
    own = curves(20)
    with styled():
        drawn = draw_panels({"task": own}, looks([curve.label for curve in own]), Labels("x", {"task": "y"}), "m0")
    assert drawn is not None
    canvas, parts = drawn
    assert len({axes.get_ylim() for axes, _ in parts}) == 1
    assert not canvas.legends
    for axes, panel in parts:
        legend = axes.get_legend()
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == [curve.label for curve in panel.curves]
