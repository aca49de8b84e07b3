"""Find the settings that tuning chose at the edge of what it tried: a better one may lie beyond."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reflora_cli.reporting.cells import Group
from reflora_cli.reporting.find import Found
from reflora_cli.reporting.records import RunRecord, Stage
from reflora_cli.reporting.settings import RATE, Setting, counted_keys, label_of, spoken


@dataclass(frozen=True)
class Edge:
    """A chosen value that is the least or the greatest of those that were tried. tried: how many there were."""

    row: str
    task: str
    key: str
    value: float
    side: str
    tried: int

    def sentence(self, tasks: str) -> str:
        """Return what is to be known of it, on tasks on which it is the same."""
        return (
            f"On {tasks}, tuning chose for {self.row} the {self.side} {spoken(self.key)} of {self.tried} that it "
            f"tried, {self.value:g}: a better one may lie beyond."
        )


def untuned_label(run: RunRecord, group: Group, tuned: Sequence[str]) -> str:
    """Return the name that a run's row has without tuned values."""
    telling = [key for key in group.telling if key not in tuned]
    alone = Setting(run.title, run.method, run.preset, run.task, counted_keys(run), (), {run.seed: run})
    return label_of(alone, telling)


def rate_free_label(run: RunRecord, group: Group) -> str:
    """Return the name of the row of a run without its learning rate."""
    return untuned_label(run, group, (RATE, *group.tuned))


def edges_of(group: Group, found: Found) -> list[Edge]:
    """Return the edges of a group, each once. Runs that did not finish were tried as well."""
    edges: dict[Edge, None] = {}
    for key in group.tuned:
        for run in group.runs:
            own = rate_free_label(run, group)
            alike = [other for other in group.tuning if is_trial(other, run) and rate_free_label(other, group) == own]
            values = {other.keys.get(key) for other in alike}
            values |= {
                other.keys.get(key)
                for other in found.unfinished
                if other.stage is Stage.TUNING
                and alike
                and other.title == run.title
                and other.keys.get("task.name") == run.keys.get("task.name")
                and all(other.keys.get(name) == run.keys.get(name) for name in group.telling if name not in group.tuned)
            }
            tried = sorted({float(value) for value in values if isinstance(value, int | float)})
            value = run.keys.get(key)
            if len(tried) > 1 and isinstance(value, int | float) and value in (tried[0], tried[-1]):
                side = "smallest" if value == tried[0] else "largest"
                edges[Edge(own, run.task, key, float(value), side, len(tried))] = None
    return list(edges)


def is_trial(other: RunRecord, run: RunRecord) -> bool:
    """Whether a run tuned the setting that a final run has: of the same comparison, on the same task."""
    return other.comparison == run.comparison and other.task == run.task
