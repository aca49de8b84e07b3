"""The figures of an inspection, each as PNG and as SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reflora_cli.console.pictures import Look, drawn_in, images, looks, plain
from reflora_cli.inspecting.inspect import Inspection
from reflora_cli.inspecting.modules import Module

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reflora_cli.inspecting.subspaces import Overlap

PANELS = 12
"""The most kinds of modules of which spectra are drawn."""
COLUMNS = 3
MOST_TICKS = 16


def change_over_depth(found: Inspection) -> Figure | None:
    """Draw how much each block has changed."""
    modules, is_relative = found.modules, found.total.relative is not None
    label = r"$\|\Delta W\|_F \,/\, \|W\|_F$" if is_relative else r"$\|\Delta W\|_F$"
    values = {own.module: own.relative_frobenius if is_relative else own.frobenius for own in modules}
    return over_depth(modules, values, label, titled(found, "change over depth"))


def rank_over_depth(found: Inspection) -> Figure | None:
    """Draw the effective rank of the change of each block."""
    values = {own.module: own.low_rank.effective_rank if own.low_rank else None for own in found.modules}
    return over_depth(found.modules, values, "effective rank", titled(found, "effective rank over depth"))


def over_depth(modules: Sequence[Module], values: Mapping[str, float | None], label: str, title: str) -> Figure | None:
    """Draw a number by depth, with a line for every kind of module: their mean, where a block has several of a kind."""
    lines = {kind: by_block(own, values) for kind, own in of_kinds(modules).items()}
    lines = {kind: line for kind, line in lines.items() if line}
    if not lines:
        return None
    figure, axes = framed(title)
    look = looks_of(modules)
    for kind, line in lines.items():
        style = drawing(look[kind])
        axes.plot(list(line), list(line.values()), label=plain(kind), markersize=4, linewidth=1.2, **style)
    blocks = sorted({block for line in lines.values() for block in line})
    axes.set_xticks(blocks[:: math.ceil(len(blocks) / MOST_TICKS)])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("block")
    axes.set_ylabel(label)
    beside(axes)
    return figure


def by_block(modules: Sequence[Module], values: Mapping[str, float | None]) -> dict[int, float]:
    """Return the mean of what is known in each block."""
    known: dict[int, list[float]] = {}
    for own in modules:
        value = values[own.module]
        if own.depth is not None and value is not None:
            known.setdefault(own.depth, []).append(value)
    return {depth: math.fsum(own) / len(own) for depth, own in sorted(known.items())}


def spectra(found: Inspection) -> Figure | None:
    """Draw the singular values over the largest one, with a panel for every kind and a line for every module."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import MaxNLocator

    kinds = of_kinds([own for own in found.modules if shares_of(own)])
    if not kinds:
        return None
    shown = dict(list(kinds.items())[:PANELS])
    columns = min(COLUMNS, len(shown))
    figure, panels = grid(math.ceil(len(shown) / columns), columns)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    shade = Normalize(0, max(1, *(own.depth or 0 for own in found.modules)))
    for panel, (kind, group) in zip(panels, shown.items(), strict=False):
        for own in group:
            shares = shares_of(own)
            color = colormaps["viridis"](shade(own.depth or 0))
            panel.plot(range(1, len(shares) + 1), shares, ".-", color=color, linewidth=0.9, markersize=3)
        panel.set_title(plain(kind), fontsize=9)
        panel.set_yscale("log")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
    ticks = MaxNLocator(integer=True)
    figure.colorbar(ScalarMappable(shade, "viridis"), ax=panels, label="block", shrink=0.6, ticks=ticks)
    figure.supxlabel("index", fontsize=10)
    figure.supylabel(r"$\sigma_i \,/\, \sigma_1$", fontsize=10)
    is_whole = all(own.spectral is not None for group in shown.values() for own in group)
    of = r"of $\Delta W$" if is_whole else "of s B A"
    figure.suptitle(titled(found, f"singular values {of}"), fontsize=11)
    return figure


def shares_of(own: Module) -> list[float]:
    """Return the singular values that are not zero over the largest one."""
    return (
        []
        if own.low_rank is None
        else [value / own.low_rank.spectral for value in own.low_rank.singular_values if value]
    )


def magnitude_and_direction(found: Inspection) -> Figure | None:
    """Draw magnitude change against direction change, a point for every module (Liu et al. 2024, figure 2)."""
    kinds = of_kinds([own for own in found.modules if own.rows is not None and own.rows.direction is not None])
    if not kinds:
        return None
    figure, axes = framed(titled(found, "magnitude and direction"))
    look = looks_of(found.modules)
    for kind, group in kinds.items():
        points = [(own.rows.direction, own.rows.magnitude) for own in group if own.rows]
        style = {**drawing(look[kind]), "linestyle": "none"}
        axes.plot(*zip(*points, strict=True), label=plain(kind), markersize=5, alpha=0.8, **style)
    axes.set_xlabel(r"direction: mean of $1 - \cos(w'_j, w_j)$ over rows")
    axes.set_ylabel(r"magnitude: mean of $|\,\|w'_j\| - \|w_j\|\,|$ over rows")
    axes.ticklabel_format(style="sci", scilimits=(-3, 4))
    beside(axes)
    return figure


def similarity(found: Inspection) -> Figure | None:
    """Draw phi(i, j) between two adapters: the mean over those modules that have the most common pair of ranks."""
    from matplotlib.ticker import MaxNLocator

    pairs = [(own.columns, own.rows) for own in found.pairs if own.columns and own.rows]
    if not pairs:
        return None
    sizes = Counter(size(columns) for columns, _ in pairs)
    common = sizes.most_common(1)[0][0]
    chosen = [both for both in pairs if size(both[0]) == common]
    figure, panels = grid(1, 2, (4.6, 4.2))
    titles = ("column spaces (outputs)", "row spaces (inputs)")
    for panel, title, own in zip(panels, titles, zip(*chosen, strict=True), strict=True):
        picture = panel.imshow(mean_grid(own), "magma", aspect="auto", vmin=0, vmax=1, origin="lower")
        picture.set_extent(extent(common))
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(f"j, of {short(found.other or '')}", fontsize=9)
        panel.set_ylabel(f"i, of {short(found.adapter)}", fontsize=9)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(picture, ax=panels, label=r"$\phi(i, j)$", shrink=0.8)
    figure.suptitle(f"subspace similarity, mean of {len(chosen)} modules", fontsize=11)
    return figure


def size(own: Overlap) -> tuple[int, int]:
    """Return the ranks of the two changes."""
    return len(own.grid), len(own.grid[0])


def extent(ranks: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the edges of a heat map whose squares are centered at 1 to the ranks."""
    return 0.5, ranks[1] + 0.5, 0.5, ranks[0] + 0.5


def mean_grid(overlaps: Sequence[Overlap]) -> list[list[float]]:
    """Return the mean of grids of one size."""
    rows, columns = size(overlaps[0])
    return [
        [math.fsum(own.grid[i][j] for own in overlaps) / len(overlaps) for j in range(columns)] for i in range(rows)
    ]


def of_kinds(modules: Sequence[Module]) -> dict[str, list[Module]]:
    """Return the modules by their kind."""
    kinds: dict[str, list[Module]] = {}
    for own in modules:
        kinds.setdefault(own.kind, []).append(own)
    return kinds


def looks_of(modules: Sequence[Module]) -> dict[str, Look]:
    """Return the look of each kind of modules, which is the same in all figures of an inspection."""
    return looks(own.kind for own in modules)


def drawing(look: Look) -> dict[str, Any]:
    """Return a look as matplotlib's options of a line."""
    return {"color": look.color, "marker": look.marker, "linestyle": look.dash}


def framed(title: str) -> tuple[Figure, Axes]:
    """Return a figure with one panel."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.set_title(title, fontsize=11)
    return figure, axes


def grid(rows: int, columns: int, panel: tuple[float, float] = (2.9, 2.3)) -> tuple[Figure, list[Axes]]:
    """Return a figure with panels of a size in inches, row by row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(panel[0] * columns + 1, panel[1] * rows + 0.7), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)


def beside(axes: Axes) -> None:
    """Put the legend to the right of a panel, where it hides nothing."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def titled(found: Inspection, what: str) -> str:
    return f"{short(found.adapter)}: {what}"


def short(named: str) -> str:
    """Return the last part of a path."""
    return plain(named.rstrip("/").rpartition("/")[2] or named)


Draw = Callable[[Inspection], "Figure | None"]
DRAWN: Mapping[str, Draw] = {
    "change_over_depth": change_over_depth,
    "spectra": spectra,
    "effective_rank": rank_over_depth,
    "magnitude_direction": magnitude_and_direction,
    "similarity": similarity,
}
FORMATS = ("png", "svg")
FIGURES = tuple(f"{name}.{form}" for name in DRAWN for form in FORMATS)
"""The names of the files that an inspection may have."""


def drawn(found: Inspection) -> dict[str, bytes]:
    """Return the figures by the names of their files: those for which there is something to draw."""
    return dict(pictures(found))


def pictures(found: Inspection) -> Iterator[tuple[str, bytes]]:
    """Yield the figures as files, the same bytes for the same numbers."""
    for name, draw in DRAWN.items():
        with drawn_in({}):
            figure = draw(found)
            files = {} if figure is None else images(figure, 130)
        for form, content in files.items():
            yield f"{name}.{form}", content
