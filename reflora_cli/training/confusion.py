"""Draw `confusion.png`: which classes are taken for one another."""

from __future__ import annotations

from collections.abc import Sequence

from reflora_cli.console.pictures import image, plain

MOST_DRAWN = 30
"""The most classes of which the picture can be read."""
INCHES = 0.4
"""The side of a class's square."""


def draw_confusion(matrix: Sequence[Sequence[int]], names: Sequence[str], title: str) -> bytes:
    """Return a PNG image of counts of rows: a line for each true class, a column for each predicted one.

    The shade is the share of the true class's rows.
    """
    from matplotlib.figure import Figure

    side = 3.0 + INCHES * len(names)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    shares = [[count / max(1, sum(row)) for count in row] for row in matrix]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for line, row in enumerate(matrix):
        for column, count in enumerate(row):
            if count:
                shade = "white" if shares[line][column] > 0.5 else "black"
                axes.text(column, line, str(count), ha="center", va="center", color=shade, fontsize=8)
    places = range(len(names))
    shown = [plain(name) for name in names]
    axes.set_xticks(places, shown, rotation=90)
    axes.set_yticks(places, shown)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(plain(title), fontsize=9)
    return image(figure, "png", 120)
