"""Compute learning-rate multipliers as a pure function of the optimizer step, so that resuming needs nothing but the
step.

They equal transformers' `get_linear_schedule_with_warmup`, `get_cosine_schedule_with_warmup` (half a cosine) and
`get_constant_schedule_with_warmup`, to the last bit. The step is that of the schedule: as under transformers' Trainer,
steps that float16's loss scaler skips for an overflow are not counted.
"""

from __future__ import annotations

import math
from enum import StrEnum


class Schedule(StrEnum):
    """What the learning rate does after its warm-up: fall to zero linearly or by half a cosine, or stay."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"


def learning_rate_multiplier(schedule: Schedule, step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the share of the peak rate at the 0-based optimizer step `step` of `total_steps`.

    Under a warm-up the first step has rate 0 and moves nothing, though its gradient enters Adam's moments. A rate that
    starts above 0 would use that step, but the published LoRA, DoRA and RefLoRA runs used transformers' Trainer, whose
    first step is the same: runs here are comparable with them step by step.
    """
    if step < warmup_steps:
        return step / warmup_steps
    remaining = max(1, total_steps - warmup_steps)
    match schedule:
        case Schedule.LINEAR:
            return max(0.0, (total_steps - step) / remaining)
        case Schedule.COSINE:
            return max(0.0, 0.5 * (1.0 + math.cos(math.pi * ((step - warmup_steps) / remaining))))
        case Schedule.CONSTANT:
            return 1.0
