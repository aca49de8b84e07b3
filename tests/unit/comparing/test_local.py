"""Where runs are carried out on this machine."""

from __future__ import annotations

import os

import pytest
import torch

from reflora_cli.comparing.local import Slot, local_slots


@pytest.mark.parametrize(
    ("gpus", "visible", "jobs", "expected"),
    [
        (0, None, None, [None]),
        (2, None, None, ["0", "1"]),
        (2, "3,5", None, ["3", "5"]),
        (2, "3,5", 1, ["3"]),
        (2, "3,5", 4, ["3", "5", "3", "5"]),
    ],
)
def test_every_run_sees_one_gpu(
    gpus: int, visible: str | None, jobs: int | None, expected: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [slot.device for slot in local_slots(jobs)] == expected


def test_runs_on_processors_share_them_unless_the_user_says_how_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert local_slots(2) == [Slot(None, 4), Slot(None, 4)]
    assert local_slots(16) == [Slot(None, 1)] * 16
    assert local_slots(None) == [Slot(None, None)]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert local_slots(2) == [Slot(None, None), Slot(None, None)]
