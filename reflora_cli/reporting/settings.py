"""Gather runs that are equal in all but the seed, and name each such setting by what tells it from the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reflora_cli.reporting.records import RunRecord
from reflora_cli.runs.comparison import SEED
from reflora_cli.tasks.metrics import LOWER_IS_BETTER

RATE, RANK = "train.learning_rate", "method.rank"
IGNORED = (
    SEED, "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.health_every", "train.trackers",
    "eval.at_start", "eval.batch_size", "eval.samples", "task.data", "task.name", "model.name",
    "model.revision", "method.name",
)  # fmt: skip
"""Keys that make no other setting: the seed, what is logged and kept, and places, since data and base go by their
hashes, the preset by the label of the method."""
FIRST = (RANK, "model.quantization", RATE)
"""Keys that are looked at first when settings must be told apart."""
BY_METHOD = ("method.layer.", "method.start.", "method.update.", "method.scaling", "method.lr_ratio")
"""Beginnings of the keys that a method's name stands for."""


@dataclass(frozen=True, order=True)
class Column:
    """What scores of one column have in common. rows: the hash of the scored rows, empty where it is not known."""

    task: str
    split: str
    metric: str
    is_fresh: bool
    rows: str

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER


@dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone, by seed. title: what begins their row's name. keys: what of their recipe
    counts. repeated: further runs with a seed that is there already, which are not counted.
    """

    title: str
    method: str
    preset: str
    task: str
    keys: Mapping[str, Any]
    columns: tuple[Column, ...]
    runs: Mapping[int, RunRecord]
    repeated: tuple[RunRecord, ...] = ()

    def scores(self, column: Column) -> dict[int, float]:
        """Return the finite scores of a column by seed."""
        return {
            seed: run.scores[column.split][column.metric]
            for seed, run in self.runs.items()
            if run.is_finite and column in self.columns
        }


def columns_of(run: RunRecord) -> tuple[Column, ...]:
    """Return the columns in which a run has a score."""
    return tuple(
        Column(run.task, split, run.metric, run.is_fresh, "" if run.is_fresh else run.rows.get(split, ""))
        for split, own in run.scores.items()
        if run.metric in own
    )


def counted_keys(run: RunRecord) -> dict[str, Any]:
    """Return what of a run's recipe makes its setting."""
    return {key: value for key, value in run.keys.items() if key not in IGNORED}


def settings_of(runs: Iterable[RunRecord]) -> list[Setting]:
    """Return the settings of runs on one base. Their order, and that of seeds, does not depend on the order of runs."""
    gathered: dict[tuple[object, ...], list[RunRecord]] = {}
    for run in sorted(runs, key=lambda run: (run.seed, str(run.path))):
        identity = (run.method, run.task, columns_of(run), frozenset(counted_keys(run).items()))
        gathered.setdefault(identity, []).append(run)
    settings = []
    for own in gathered.values():
        by_seed: dict[int, RunRecord] = {}
        for run in own:
            by_seed.setdefault(run.seed, run)
        repeated = tuple(run for run in own if by_seed[run.seed] is not run)
        first = own[0]
        keys = counted_keys(first)
        title = next((run.title for run in own if run.title != run.method), first.method)
        columns = columns_of(first)
        settings.append(Setting(title, first.method, first.preset, first.task, keys, columns, by_seed, repeated))
    return sorted(settings, key=setting_order)


def setting_order(setting: Setting) -> tuple[object, ...]:
    """Return what a setting is sorted by: its task and method, its values, and its title."""
    return setting.task, setting.preset, setting.method, sorted(map(key_order, setting.keys.items())), setting.title


def key_order(item: tuple[str, Any]) -> tuple[str, bool, float, str]:
    """Return what a key and its value are sorted by: numbers by size, anything else by its text."""
    key, value = item
    is_number = isinstance(value, int | float)
    return key, not is_number, float(value) if is_number else 0.0, str(value)


def telling_keys(settings: Sequence[Setting], tuned: Sequence[str]) -> tuple[str, ...]:
    """Return the keys that, beside the title, tell apart the settings that stand in the same columns. Tuned keys come
    last: if each setting has one value, the value is no part of its name.
    """
    known = dict.fromkeys(key for own in settings for key in own.keys)
    order = [key for key in (*FIRST, *known) if key in known and key not in tuned]
    candidates = list(dict.fromkeys([*order, *(key for key in tuned if key in known)]))
    telling: list[str] = []
    while alike := [group for group in same_names(settings, telling) if len(group) > 1]:
        new = next((key for key in candidates if any(differs(key, group) for group in alike)), None)
        if new is None:
            break
        candidates.remove(new)
        telling.append(new)
    return tuple(telling)


def same_names(settings: Sequence[Setting], telling: Sequence[str]) -> list[list[Setting]]:
    """Return the settings that stand in the same columns under the same name, group by group."""
    groups: dict[tuple[object, ...], list[Setting]] = {}
    for own in settings:
        groups.setdefault((own.columns, own.title, *(own.keys.get(key) for key in telling)), []).append(own)
    return list(groups.values())


def differs(key: str, settings: Sequence[Setting]) -> bool:
    """Whether a key has several values among the settings."""
    return len({own.keys.get(key) for own in settings}) > 1


def label_of(setting: Setting, telling: Sequence[str]) -> str:
    """Return the name of a setting: its title, and the values of the keys that tell it from others."""
    return ", ".join(
        [setting.title, *(f"{spoken(key)} {shown(setting.keys[key])}" for key in telling if key in setting.keys)]
    )


def varied_keys(settings: Sequence[Setting], telling: Sequence[str]) -> tuple[str, ...]:
    """Return the keys that differ among settings though no name has them. What a method's name stands for counts only
    if it differs within a method.
    """
    known = dict.fromkeys(key for own in settings for key in own.keys if key not in telling)
    by_method: dict[str, list[Setting]] = {}
    for own in settings:
        by_method.setdefault(own.method, []).append(own)
    return tuple(
        key
        for key in known
        if (
            any(differs(key, group) for group in by_method.values())
            if key.startswith(BY_METHOD)
            else differs(key, settings)
        )
        and key != "data.train"
    )


def spoken(key: str) -> str:
    """Return the words for a key: its last part, with the choice before it where it is a field of one."""
    *_, section, last = ("", *key.split("."))
    words = last.replace("_", " ")
    if key == "data.train":
        return "training rows"
    return words if section in {"", "method", "train", "model", "task", "eval"} else f"{section} {words}"


def shown(value: object) -> str:
    """Return a value of a recipe as people write it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case None:
            return "none"
        case float():
            return f"{value:g}"
        case tuple():
            return ", ".join(map(shown, value))
        case _:
            text = str(value)
            return text if len(text) <= 40 else text[:8]
