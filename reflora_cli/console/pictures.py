"""How figures look, and the files they become: colours that the colour-blind tell apart, PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#5B4B9A", "#000000")
"""Okabe and Ito's colours, in an order in which neighbours differ in brightness; a dark violet for their yellow, which
lines on white would not show."""
MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
LONGEST = 40
"""The most characters of a name."""


@dataclass(frozen=True)
class Look:
    """How one thing is drawn wherever it is drawn. dash: matplotlib's style of its lines."""

    color: str
    marker: str
    dash: Any


def looks(labels: Iterable[str]) -> dict[str, Look]:
    """Return a look for each label; more labels than colours differ by marker and dashes."""
    count = len(COLOURS)
    return {
        label: Look(COLOURS[i % count], MARKERS[(i + i // count) % len(MARKERS)], DASHES[i // count % len(DASHES)])
        for i, label in enumerate(dict.fromkeys(labels))
    }


def drawn_in(style: Mapping[str, Any]) -> Any:
    """Return a context in which figures are drawn in matplotlib's own style with these changes, whatever the user's
    style is.
    """
    import matplotlib as mpl

    usual: Any = {**dict(mpl.rcParamsDefault), "backend": mpl.rcParams["backend"], **style}
    return mpl.rc_context(usual)


def images(figure: Figure, dpi: int) -> dict[str, bytes]:
    """Return a figure as the bytes of its files by format, png and svg. Equal numbers make equal bytes."""
    return {form: image(figure, form, dpi) for form in ("png", "svg")}


def image(figure: Figure, form: str, dpi: int) -> bytes:
    """Return a figure as the bytes of a file. form: png or svg. dpi: pixels of an inch."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    metadata = {"Date": None} if form == "svg" else None
    with rc_context({"svg.hashsalt": "reflora"}):
        figure.savefig(buffer, format=form, dpi=dpi, facecolor="white", metadata=metadata)
    figure.set_layout_engine("none")  # it has its layout now, which takes longest
    return buffer.getvalue()


def plain(name: str) -> str:
    """Return a name, shortened, that the image's font has, without the signs that begin a formula."""
    short = name if len(name) <= LONGEST else f"{name[: LONGEST - 3]}..."
    known = (letter if letter.isprintable() and ord(letter) < 0x500 else "?" for letter in short)
    return "".join(known).replace("$", r"\$")
