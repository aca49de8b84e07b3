"""Find out, before anything begins, in which way a model's rows may be computed without padding."""

from __future__ import annotations

from contextlib import suppress

import torch

from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.model.packing import Packing, Way
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.invariance import FOREIGN, LONG, MIDDLE, SHORT, Read, RowT, Trial, agree


def begin_packing(base: Base, compute: Compute, trial: Trial[RowT], padding: Padding, read: Read[RowT]) -> Packing:
    """Put the first way of packing in place by which a trial's rows together have the results of rows alone.

    padding: how rows of unequal length go through the model. read: the function that reads rows packed. Raises
    InputError for a model in which no way has these results.
    """
    if padding is Padding.NONE:
        raise refused(base, "its batches already hold rows of one length only, without padding")
    together = [trial.rows[index] for index in (LONG, MIDDLE, SHORT)]
    expected = torch.cat([trial.alone(row) for row in together])
    for way in Way:
        with suppress(*FOREIGN):
            packing = Packing(base.model, way)
            with suppress(*FOREIGN):
                if agree(read(together, padding), expected, compute.dtype):
                    return packing
            packing.remove()
    raise refused(base, "packed rows give other results than the same rows alone")


def refused(base: Base, why: str) -> InputError:
    """Return the error of a model that cannot be packed."""
    what = f"rows cannot be packed in a {base.model.config.model_type} model: {why}"
    return InputError(Problem(what, "train.packing", "true", remedy="set train.packing=false"))
