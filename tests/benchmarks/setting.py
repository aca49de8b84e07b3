"""What is compared: one task, model and set of hyperparameters, whatever tool runs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """One run. Rank and alpha 8 on all linear layers, batch 32, linear decay without warm-up, float32.

    grouped: steps of rows alike in length. padded: every row to `max_length`, as the reference's script does. What
    reflora alone does: packed: rows are computed without padding; trimmed: the last block computes the places that are
    read alone.
    """

    task: str
    base: str
    data: str
    method: str
    seed: int
    train_rows: int | None
    learning_rate: float
    epochs: int
    refactor_warmup: int
    grouped: bool = False
    padded: bool = False
    trimmed: bool = False
    packed: bool = False
    max_length: int = 64
    rank: int = 8
    batch_size: int = 32


@dataclass(frozen=True)
class Outcome:
    """What a run gave: scores after the last epoch, mean loss by logged step, seconds per epoch of training."""

    tool: str
    scores: dict[str, float]
    losses: dict[int, float]
    seconds_per_epoch: float
    trained_parameters: int
