"""Plans that share what was found are those that each would be alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reflora_cli.planning import plan as planning
from reflora_cli.planning.devices import named_gpu
from reflora_cli.planning.known import Known
from reflora_cli.planning.plan import Request, planned
from reflora_cli.recipe.files import load_recipe

FEW = ("task.max_train_rows=32", "task.max_eval_rows=8", "train.epochs=300", "train.batch_size=8",
       "train.micro_batch_size=8", "method.name=lora")  # fmt: skip
CHANGES = ((), ("train.optimizer=adamw_8bit",), ("train.gradient_checkpointing=true",))


def test_alternatives_that_share_what_was_found_are_the_same(narrow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("examined", "traced", "scoring_peak"):
        monkeypatch.setattr(planning, name, counted(name, getattr(planning, name), calls))
    request, known = Request(named_gpu("12 GB")), Known()
    recipes = [load_recipe("quickstart", [*FEW, f"model.name={narrow}", *change]) for change in CHANGES]
    shared = [planned(recipe, request, known) for recipe in recipes]
    # The optimizer's memory changes no pass; what is adapted, and an evaluation, are the same for all.
    assert sorted(calls) == ["examined", "scoring_peak", "traced", "traced"]
    for recipe, found in zip(recipes[1:], shared[1:], strict=True):
        assert planned(recipe, request).memory == found.memory
    assert shared[2].memory.kept < shared[0].memory.kept


def counted(name: str, own: Callable[..., Any], calls: list[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        calls.append(name)
        return own(*arguments)

    return call
