"""Trackers that fail leave a run, with one line each."""

from __future__ import annotations

from collections.abc import Mapping

from reflora_cli.tracking.tracker import UNTRACKED, Trackers


class Keeping:
    """A tracker that keeps what it is told, and fails from some step on."""

    def __init__(self, last: int) -> None:
        self.last, self.steps, self.statuses = last, list[int](), list[int]()

    def log(self, values: Mapping[str, float], step: int) -> None:
        if step > self.last:
            raise ConnectionError("no network")
        self.steps.append(step)

    def close(self, status: int) -> None:
        self.statuses.append(status)


def test_one_that_fails_is_left_out_and_the_others_go_on() -> None:
    good, bad, said = Keeping(9), Keeping(1), list[str]()
    trackers = Trackers({"bad": bad, "good": good}, said.append)
    for step in (1, 2, 3):
        trackers.log({"loss": 1.0}, step)
    trackers.log({}, 4)
    trackers.close(3)
    assert (good.steps, good.statuses) == ([1, 2, 3], [3])
    assert (bad.steps, bad.statuses) == ([1], [])
    assert len(said) == 1
    assert "bad" in said[0]
    assert "no network" in said[0]


def test_without_trackers_nothing_happens() -> None:
    UNTRACKED.log({"loss": 1.0}, 1)
    UNTRACKED.close(0)
