"""Which steps are measured, and to what the time of all is in proportion."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from reflora_cli.model.precision import Compute
from reflora_cli.objectives.objective import Split
from reflora_cli.planning import measure
from reflora_cli.planning.measure import measured_rates, padded, parts_of, scoring_cost
from reflora_cli.planning.rows import computed_shape
from reflora_cli.recipe.files import load_recipe
from reflora_cli.training.job import Job
from reflora_cli.training.prepare import prepare

FEW = ("task.max_train_rows=64", "task.max_eval_rows=8", "train.epochs=2", "train.batch_size=4",
       "train.micro_batch_size=4", "train.warmup_steps=0", "method.name=lora")  # fmt: skip


@pytest.fixture(scope="module")
def job() -> Job:
    recipe = load_recipe("quickstart", FEW)
    return prepare(recipe, Compute(torch.device("cpu"), torch.float32), recipe.model)


def test_parts_hold_every_step_of_an_epoch_once_by_its_tokens(job: Job) -> None:
    parts = parts_of(job, 3)
    assert sorted(step for part in parts for step in part) == list(range(16))
    assert [len(part) for part in parts] == [5, 5, 6]
    assert all(tokens == padded(job, step) for part in parts for step, tokens in part.items())
    assert max(parts[0].values()) <= min(parts[1].values()) <= max(parts[1].values()) <= min(parts[2].values())
    assert max(parts[2].values()) > min(parts[0].values())


def test_one_slow_step_does_not_change_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, begun = 0.0, list[int]()
    parts = [{step: 10 + step for step in range(6)}, {step: 30 + step for step in range(6, 12)}]

    def step_of(_: object, step: int) -> None:
        nonlocal clock
        tokens = next(part[step] for part in parts if step in part)
        clock += 0.5 * tokens + (1000 if len(begun) == 3 else 0)  # the machine stands still in the fourth
        begun.append(step)

    monkeypatch.setattr(measure, "train_step", step_of)
    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock))
    rates = measured_rates(SimpleNamespace(), parts, 3)  # type: ignore[arg-type]
    assert begun == [1, 7, 3, 9, 5, 11]  # evenly spaced in each part, one part after the other
    assert [sorted(own)[1] for own in rates] == [pytest.approx(0.5)] * 2


def test_scoring_is_in_proportion_to_padded_tokens_of_rows_that_are_alike() -> None:
    rows = [SimpleNamespace(input_ids=[0] * length) for length in (9, 1, 2, 8)]
    assert scoring_cost(Split("validation", rows), 2) == 2 * 2 + 2 * 9
    assert scoring_cost(Split("validation", rows), 3) == 3 * 8 + 9


def test_packed_rows_are_computed_without_padding_but_where_they_share_sequences() -> None:
    lengths = [9, 4, 4, 1]
    labels, answers = ("quickstart", "quickstart-commonsense")
    shapes = {
        (name, packing): computed_shape(load_recipe(name, [*FEW, f"train.packing={packing}"]), lengths, 1)
        for name in (labels, answers)
        for packing in ("false", "true")
    }
    assert shapes[labels, "false"] == shapes[answers, "false"] == (4, 9, 36)
    assert shapes[labels, "true"] == (4, 9, 18)
    # Rows of 9, and of 4, 4 and 1, in two sequences.
    assert shapes[answers, "true"] == (2, 9, 18)
    assert computed_shape(load_recipe(answers, FEW), lengths, 8) == (4, 16, 64)
