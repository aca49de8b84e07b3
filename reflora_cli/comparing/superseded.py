"""Set aside final runs of settings that tuning does not choose any more, since more values were tried."""

from __future__ import annotations

from collections.abc import Sequence

from reflora_cli.comparing.directory import ComparisonDirectory
from reflora_cli.comparing.planned import PlannedRun
from reflora_cli.ground.paths import exists, is_directory
from reflora_cli.runs.comparison import ASIDE, FINAL


def set_aside(directory: ComparisonDirectory, runs: Sequence[PlannedRun]) -> list[str]:
    """Leave only these runs among those that are compared, and return the names of those that were moved away. One
    that was moved away earlier comes back.
    """
    final, aside = directory.path / FINAL, directory.path / ASIDE
    names, moved = {run.name for run in runs}, []
    for place in sorted(final.iterdir()) if is_directory(final) else []:
        if is_directory(place) and place.name not in names and not exists(aside / place.name):
            aside.mkdir(exist_ok=True)
            place.rename(aside / place.name)
            moved.append(place.name)
    for name in sorted(names):
        if is_directory(aside / name) and not exists(final / name):
            final.mkdir(exist_ok=True)
            (aside / name).rename(final / name)
    return moved
