"""Leave out what nothing reads of a model's last block in training, where a trial shows that nothing reads it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.last_block import end_of_attention, narrow_training, narrowed
from reflora_cli.objectives.invariance import FOREIGN, agree
from reflora_cli.objectives.objective import Objective


def trim_last_block(objective: Objective[Any]) -> None:
    """Let training passes compute the first places only behind the last block's attention; scoring stays as it is.

    Adapters must be in place. Raises InputError for a model that is not built as BERT is, and for one whose results
    would be others: its head reads other places, or its blocks share a module.
    """
    end = end_of_attention(objective.base.model)
    if end is not None:
        with suppress(*FOREIGN), objective.trial_pass() as read:
            expected = read()
            with narrowed(end):
                found = read()
            if agree(found, expected, objective.compute.dtype):
                narrow_training(end)
                return
    kind = objective.base.model.config.model_type
    what = f"train.trim_last_block is not possible for a {kind} model: its last block must compute all positions"
    raise InputError(Problem(what, "train.trim_last_block", "true", remedy="set train.trim_last_block=false"))
