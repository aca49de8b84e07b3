"""Log to TensorBoard's event files, in RUN/tensorboard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import yaml

from reflora_cli.tracking.tracker import Tracked

DIRECTORY = "tensorboard"


@final
class TensorBoardTracker:
    """A writer of event files. Steps that a continued run takes again are purged: TensorBoard shows each one once.

    Every line is flushed, so that the files have all that a checkpoint counts on.
    """

    def __init__(self, run: Tracked) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purged = None if run.step is None else run.step + 1 if run.step else 0
        self._writer = SummaryWriter(run.path / DIRECTORY, purge_step=purged)
        if not run.step:
            self._writer.add_text("recipe", f"```yaml\n{yaml.safe_dump(dict(run.settings), sort_keys=False)}```")

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: int) -> None:
        self._writer.close()
