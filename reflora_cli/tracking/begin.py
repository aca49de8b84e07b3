"""From names in a recipe to trackers at work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import assert_never

from reflora_cli.ground.extras import EXTRAS
from reflora_cli.methods.settings import TrackerName
from reflora_cli.tracking.tensorboard import TensorBoardTracker
from reflora_cli.tracking.tracker import Tracked, Tracker, Trackers, failed
from reflora_cli.tracking.trackio import TrackioTracker
from reflora_cli.tracking.wandb import WandbTracker


def refuse_missing(names: Sequence[TrackerName]) -> None:
    """Raises InputError for trackers whose library, which has their name, is not installed."""
    EXTRAS["trackers"].only(names).refuse_missing("train.trackers")


def begin_trackers(names: Sequence[TrackerName], run: Tracked, note: Callable[[str], None]) -> Trackers:
    """Return the trackers of a run. note: what is told of one that cannot begin, as without a network or a login; the
    run goes on without it.
    """
    begun: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            begun[name] = tracker(name, run)
        except Exception as error:  # a library of others, perhaps behind a network
            note(failed(name, error))
    return Trackers(begun, note)


def tracker(name: TrackerName, run: Tracked) -> Tracker:
    """Return the tracker of that name."""
    match name:
        case TrackerName.TENSORBOARD:
            return TensorBoardTracker(run)
        case TrackerName.WANDB:
            return WandbTracker(run)
        case TrackerName.TRACKIO:
            return TrackioTracker(run)
        case never:
            assert_never(never)
