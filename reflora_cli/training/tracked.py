"""Let a run's trackers follow it from its first step to its end, whatever that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reflora_cli.ground.errors import RefloraError
from reflora_cli.tracking.begin import begin_trackers
from reflora_cli.tracking.tracker import UNTRACKED, Tracked
from reflora_cli.training.session import Session


@contextmanager
def tracked(session: Session, resume: bool) -> Iterator[None]:
    """Begin the recipe's trackers in the process that writes, and close them with the exit status of the block."""
    recipe, names = session.job.recipe, session.job.recipe.train.trackers
    if not names or not session.is_writer:
        yield
        return
    step = session.progress.step if resume else None
    run = Tracked(Path(session.run.path), recipe.model_dump(mode="json"), step)
    session.trackers = begin_trackers(names, run, session.reporter.note)
    status = 1
    try:
        yield
        status = 0
    except RefloraError as error:
        status = error.exit_status
        raise
    finally:
        session.trackers.close(status)
        session.trackers = UNTRACKED
