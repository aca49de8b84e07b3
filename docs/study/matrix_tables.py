"""Turn findings into the tables of the report. A run that was not made is a dash."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from matrix_data import Data
from matrix_gauge import GAUGES
from matrix_plan import (
    ADAMW,
    LORA,
    OF_ABLATION,
    OF_REPEAT,
    SGD,
    ablation_settings,
    gauge_settings,
    main_settings,
    methods_of,
    of_gauge,
    repeat_settings,
)
from matrix_results import Comparison, Result, compared, corrected
from matrix_runs import CEILING, FLOOR, Setting
from reflora_cli.methods.settings import Optimizer

NOTHING = "–"
EARLIER: Mapping[str, Mapping[str, str]] = {
    "Adam, standard start": {
        "reflora": "0/11/3",
        "reflora-s": "1/13/0",
        "balanced, moments moved": "1/10/3",
        "scaled-gd, damping 1e-2": "4/5/5",
        "lora+": "0/7/7",
    },
    "Adam, A0 x 10": {
        "reflora": "0/3/0",
        "reflora-s": "2/1/0",
        "balanced, moments moved": "1/2/0",
        "scaled-gd, damping 1e-2": "2/0/1",
        "lora+": "0/0/3",
    },
    "Adam, A x 10 and B / 10 in mid-run": {
        "reflora": "3/0/0",
        "reflora-s": "3/0/0",
        "balanced, moments moved": "3/0/0",
        "scaled-gd, damping 1e-2": "3/0/0",
        "lora+": "0/0/3",
    },
    "SGD, all starts": {
        "reflora": "8/5/0",
        "reflora-s": "8/5/0",
        "balanced, moments moved": "8/4/1",
        "scaled-gd, damping 1e-2": "8/2/3",
    },
}
"""Wins, ties and losses against LoRA that an earlier study of 33 settings counted, of which only these are left."""
MARKS = {"win": " **+**", "tie": "", "lose": " −"}
Compared = dict[tuple[str, str], Comparison]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def against(data: Data, base: str, cells: Iterable[tuple[Setting, str]]) -> Compared:
    """Return comparisons with the method `base` for all cells that were run, corrected together."""
    keys = [(setting.key, name) for setting, name in dict.fromkeys(cells) if name != base]
    keys = [key for key in keys if key in data.results and (key[0], base) in data.results]
    found = corrected([compared(data.results[key], data.results[key[0], base]) for key in keys])
    return dict(zip(keys, found, strict=True))


def counts(verdicts: Iterable[str]) -> str:
    """Return wins / ties / losses."""
    found = Counter(verdicts)
    return f"{found['win']}/{found['tie']}/{found['lose']}"


def mean_loss(result: Result | None) -> str:
    """Return log10 of the geometric mean of the loss over fresh seeds."""
    if result is None:
        return NOTHING
    mean = statistics.fmean(result.fresh)
    if mean <= FLOOR:
        return f"≤ {FLOOR:.0f}"
    return "diverged" if mean >= CEILING else f"{mean:.2f}"


def main_comparisons(data: Data, optimizer: Optimizer) -> Compared:
    """Return every method against LoRA on the main settings."""
    return against(data, LORA, ((own, name) for own in main_settings(optimizer) for name in methods_of(own)))


def main_table(data: Data, optimizer: Optimizer) -> str:
    """Return mean log10 losses of all methods on the main settings, marked where they differ from LoRA's."""
    settings, found = main_settings(optimizer), main_comparisons(data, optimizer)
    rows = []
    for name in dict.fromkeys(name for own in settings for name in methods_of(own)):
        own = [found[key.key, name] for key in settings if (key.key, name) in found]
        marks = [MARKS[found[key.key, name].verdict] if (key.key, name) in found else "" for key in settings]
        losses = [mean_loss(data.results.get((key.key, name))) for key in settings]
        cells = [loss + mark for loss, mark in zip(losses, marks, strict=True)]
        rows.append([name, *cells, counts(one.verdict for one in own) if own else NOTHING])
    return table(["method", *(own.problem for own in settings), "win/tie/lose"], rows)


def interval_table(data: Data, optimizer: Optimizer, names: Sequence[str]) -> str:
    """Return differences to LoRA with intervals and corrected p on the main settings."""
    found = main_comparisons(data, optimizer)
    rows = []
    for setting in main_settings(optimizer):
        own = [found.get((setting.key, name)) for name in names]
        rows.append([setting.problem, *(interval(one) for one in own)])
    return table(["setting", *names], rows)


def interval(own: Comparison | None) -> str:
    """Return a difference with its interval, and p after correction."""
    if own is None:
        return NOTHING
    shown = f"p = {own.corrected:.2g}" if own.corrected >= 0.001 else "p < 0.001"
    return f"{own.difference:+.2f} [{own.low:+.2f}, {own.high:+.2f}], {shown}"


def rate_table(data: Data, optimizer: Optimizer) -> str:
    """Return what is to be said of learning rates: medians over the main settings."""
    settings = main_settings(optimizer)
    rows = []
    for name in dict.fromkeys(name for own in settings for name in methods_of(own)):
        pairs = [(data.results.get((own.key, name)), data.results.get((own.key, LORA))) for own in settings]
        own = [(one, lora) for one, lora in pairs if one and lora]
        if not own:
            continue
        middle: Callable[[Iterable[float]], float] = statistics.median
        rows.append(
            [
                name,
                f"{middle(one.rate / lora.rate for one, lora in own):.3g}",
                f"{middle(one.good_range for one, _ in own):.3g}",
                f"{middle(one.first_diverging / one.rate for one, _ in own):.3g}",
                f"{sum(one.is_at_edge for one, _ in own)} of {len(own)}",
                f"{sum(CEILING in one.fresh for one, _ in own)} of {len(own)}",
            ]
        )
    head = ["method", "best rate / LoRA's", "largest / smallest good rate", "first diverging / best rate"]
    return table([*head, "best rate at an end of the grid", "settings with a diverged fresh seed"], rows)


def steps_table(data: Data, optimizer: Optimizer) -> str:
    """Return median steps until the loss is a hundredth of the first."""
    settings = main_settings(optimizer)
    rows = []
    for name in dict.fromkeys(name for own in settings for name in methods_of(own)):
        rows.append([name, *(steps(data.results.get((own.key, name))) for own in settings)])
    return table(["method", *(own.problem for own in settings)], rows)


def steps(result: Result | None) -> str:
    """Return median steps to the threshold, or that they were not enough."""
    if result is None:
        return NOTHING
    middle, last = statistics.median(result.reached), len(result.curve) - 1
    return f"{middle:.0f}" if middle <= last else f"> {last}"


def repeat_table(data: Data) -> str:
    """Return wins, ties and losses against LoRA by the earlier study's rule, by Holm's, and those it had counted."""
    names = [name for name in OF_REPEAT if name != LORA]
    rows = []
    for regime, settings in repeat_settings().items():
        found = against(data, LORA, ((own, name) for own in settings for name in names))
        for label, verdict in (("as then", "loose_verdict"), ("Holm", "verdict")):
            cells = [
                counts(getattr(found[own.key, name], verdict) for own in settings if (own.key, name) in found)
                for name in names
            ]
            rows.append([f"{regime} ({len(settings)}), {label}", *cells])
        rows.append([f"{regime}, then", *(f"*{EARLIER[regime].get(name, NOTHING)}*" for name in names)])
    return table(["regime (settings), rule", *names], rows)


def repeat_details(data: Data) -> str:
    """Return the difference to LoRA of every setting of the repetition."""
    names = [name for name in OF_REPEAT if name != LORA]
    rows = []
    for settings in repeat_settings().values():
        found = against(data, LORA, ((own, name) for own in settings for name in names))
        for own in settings:
            cells = [difference(found.get((own.key, name))) for name in names]
            rows.append([own.key, mean_loss(data.results.get((own.key, LORA))), *cells])
    return table(["setting", "lora", *names], rows)


def difference(own: Comparison | None) -> str:
    """Return a difference, marked where it is certain and noticeable."""
    return NOTHING if own is None else f"{own.difference:+.2f}{MARKS[own.verdict]}"


def ablation_table(data: Data) -> str:
    """Return differences to RefLoRA as it is in the main tables."""
    settings = ablation_settings()
    found = against(data, "reflora", ((own, name) for own in settings for name in (*OF_ABLATION, "reflora-s")))
    rows = [["reflora: mean log10 loss", *(mean_loss(data.results.get((own.key, "reflora"))) for own in settings)]]
    for name in (*OF_ABLATION, "reflora-s"):
        rows.append([name, *(difference(found.get((own.key, name))) for own in settings)])
    return table(["variant", *(f"{own.family.name}, {own.optimizer.value}" for own in settings)], rows)


def moved_moments_table(data: Data) -> str:
    """Return what transporting moments changes for the balanced gauge, under both optimizers."""
    moved, kept = "balanced, moments moved", "balanced"
    settings = [*dict.fromkeys([*ablation_settings(), *gauge_settings()])]
    found = against(data, kept, ((own, moved) for own in settings))
    rows = [[own.key, interval(found.get((own.key, moved)))] for own in settings if (own.key, moved) in found]
    return table(["setting", "moments moved against kept"], rows)


def hand_table(data: Data) -> str:
    """Return mean log10 losses where the gauge is moved by hand, marked against LoRA under the same move."""
    settings = gauge_settings()
    found = against(data, LORA, ((own, name) for own in settings for name in of_gauge(own)))
    names = of_gauge(settings[0])
    rows = []
    for own in settings:
        marks = [MARKS[found[own.key, name].verdict] if (own.key, name) in found else "" for name in names]
        losses = [mean_loss(data.results.get((own.key, name))) for name in names]
        rows.append([own.key, *(loss + mark for loss, mark in zip(losses, marks, strict=True))])
    return table(["setting", *names], rows)


def theorem_table(data: Data) -> str:
    """Return how far paths from two factorizations of one BA get apart."""
    rows = []
    for own in data.gauge:
        cells = ["diverges" if own["apart"][kind] is None else f"{own['apart'][kind]:.0e}" for kind in GAUGES]
        rows.append([f"{own['variant']}, {own['optimizer']}", *cells])
    return table(["method", *GAUGES], rows)


def published_table(data: Data) -> str:
    """Return final losses and steps to 1e-3 of the paper's figure, over seeds."""
    rows = []
    for own in data.published:
        for rate, final, reached in zip(own["rates"], own["final"], own["reached"], strict=True):
            diverged = sum(loss >= 1e12 for loss in final)
            shown = f"{min(final):.2g} to {max(final):.2g}" if not diverged else f"{diverged} of {len(final)} diverge"
            found = ", ".join("never" if one is None else str(one) for one in reached)
            rows.append([own["variant"], f"{rate:g}", shown, found])
    return table(["method", "rate", "loss after 100 steps, over seeds", "steps until 1e-3, by seed"], rows)


def tables(data: Data) -> dict[str, str]:
    """Return every table of the report by its name in the template."""
    named = ("reflora", "reflora-s", "balanced", "scaled-gd")
    return {
        "published": published_table(data),
        "theorem": theorem_table(data),
        "main adamw": main_table(data, ADAMW),
        "main sgd": main_table(data, SGD),
        "intervals adamw": interval_table(data, ADAMW, (*named, "lora-rite")),
        "intervals sgd": interval_table(data, SGD, (*named, "altlora")),
        "steps adamw": steps_table(data, ADAMW),
        "steps sgd": steps_table(data, SGD),
        "rates adamw": rate_table(data, ADAMW),
        "rates sgd": rate_table(data, SGD),
        "repeat": repeat_table(data),
        "repeat details": repeat_details(data),
        "ablation": ablation_table(data),
        "moved moments": moved_moments_table(data),
        "by hand": hand_table(data),
        "seconds": f"{data.seconds} seconds",
    }
