"""Choose what tuning found best for each method, by the mean score over the seeds of tuning."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reflora_cli.comparing.directory import Result, State
from reflora_cli.comparing.plan import Tuning, Values
from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.tasks.metrics import LOWER_IS_BETTER

RATE = "train.learning_rate"
MAIN = "validation"
"""The value of `tune.by` that means the task's main score."""


@dataclass(frozen=True)
class Try:
    """One tried setting of a method. scores: by seed; None where the run diverged. mean: None for one that lost so."""

    values: Values
    scores: Mapping[int, float | None]

    @property
    def mean(self) -> float | None:
        found = [score for score in self.scores.values() if score is not None]
        return statistics.fmean(found) if found and len(found) == len(self.scores) else None

    def record(self) -> dict[str, Any]:
        scores = {str(seed): score for seed, score in self.scores.items()}
        return {"values": self.values, "mean": self.mean, "n": len(self.scores), "scores": scores}


@dataclass(frozen=True)
class Choice:
    """What was tried for a method and what is chosen of it; None if every try diverged. at_edge: the tuned keys whose
    chosen value is the least or the greatest that was tried: a better one may lie beyond.
    """

    setting: str
    metric: str
    tries: Sequence[Try]
    chosen: Values | None
    at_edge: Sequence[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Return what `chosen.json` holds."""
        edge = [{"key": key, "value": (self.chosen or {})[key]} for key in self.at_edge]
        tried = [own.record() for own in self.tries]
        return {"metric": self.metric, "tried": tried, "chosen": self.chosen, "at_edge": edge}

    def warnings(self) -> list[str]:
        """Return what the user should know of the choice."""
        if self.chosen is None:
            return [f"{self.setting}: all values that were tried diverged, so none is chosen"]
        beyond = "is at the edge of what was tried: try values beyond it"
        return [f"{self.setting}: the best {key}, {self.chosen[key]:g}, {beyond}" for key in self.at_edge]


def choose(tune: Tuning, setting: str, results: Sequence[Result]) -> Choice | None:
    """Return the choice for one method; None while runs of it are missing. results: those of its tuning runs.

    Equal means go to the smaller rate, then to the earlier try. Raises InputError for a score that the runs lack.
    """
    if any(own.state in (State.WAITING, State.FAILED) for own in results):
        return None
    metric = next((own.metric for own in results if own.metric), "") if tune.by == MAIN else tune.by
    tries: list[Try] = []
    for own in results:
        if own.run.tuned not in [known.values for known in tries]:
            same = [other for other in results if other.run.tuned == own.run.tuned]
            tries.append(Try(own.run.tuned, {other.run.seed: score_of(other, metric) for other in same}))
    whole = [own for own in tries if own.mean is not None]
    if not whole:
        return Choice(setting, metric, tries, None)
    sign = 1 if metric in LOWER_IS_BETTER else -1
    best = min(whole, key=lambda own: (sign * (own.mean or 0.0), own.values.get(RATE, 0)))
    return Choice(setting, metric, tries, best.values, edges(tries, best.values))


def score_of(result: Result, metric: str) -> float | None:
    """Return the score to choose by; None for a run that diverged. Raises InputError for a run that lacks it."""
    if result.state is State.DIVERGED:
        return None
    score = result.score(metric)
    if score is None:
        known = next(iter((result.scores or {}).values()), {})
        what = "the runs have no scores to tune by" if not known else "the runs have no score of this name"
        remedy = nearest(metric, known) if known else "evaluate during training: set eval.every=epoch"
        raise InputError(Problem(what, "tune.by", metric, remedy=remedy))
    return score


def edges(tries: Sequence[Try], chosen: Values) -> list[str]:
    """Return the numeric keys whose chosen value is the least or the greatest of those tried."""
    found = []
    for key, value in chosen.items():
        tried = {own.values[key] for own in tries if is_number(own.values[key])}
        if is_number(value) and len(tried) > 1 and value in (min(tried), max(tried)):
            found.append(key)
    return found


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
