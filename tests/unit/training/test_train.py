"""The generators that a run draws from."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from reflora_cli.console.reporter import SilentReporter
from reflora_cli.methods.settings import Streaming
from reflora_cli.training.train import make_ready


def process(number: int) -> Any:
    """Only what is asked of an accelerator: which of four processes this is, and what it trains on."""
    return cast(Any, SimpleNamespace(num_processes=4, process_index=number, device=torch.device("cpu")))


def job_with(seed: int) -> Any:
    """Only what is asked of a job whose base has no dropout, and is neither shared among processes nor streamed."""
    model = SimpleNamespace(modules=list, config=SimpleNamespace(to_dict=dict))
    train = SimpleNamespace(seed=seed, packing=False, offload_activations=False)
    recipe = SimpleNamespace(train=train, model=SimpleNamespace(streaming=Streaming.NONE))
    return SimpleNamespace(recipe=recipe, compute=SimpleNamespace(sharded=False), base=SimpleNamespace(model=model))


@pytest.mark.parametrize(("seed", "number", "expected"), [(0, 0, 0), (7, 3, 10), (2**32 - 1, 0, 2**32 - 1)])
def test_all_generators_begin_at_the_seed_and_the_number_of_the_process(seed: int, number: int, expected: int) -> None:
    make_ready(job_with(seed), process(number), SilentReporter())
    drawn = torch.rand(3), np.random.random(3), random.random()
    own = torch.Generator().manual_seed(expected)
    assert torch.equal(drawn[0], torch.rand(3, generator=own))
    assert np.array_equal(drawn[1], np.random.RandomState(expected).random_sample(3))
    assert drawn[2] == random.Random(expected).random()


def test_the_largest_seed_is_one_for_every_process() -> None:
    make_ready(job_with(2**32 - 1), process(3), SilentReporter())
    assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(2)))
