"""The smallest combination of changes that fits is found, whatever is left out on the way."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

from reflora_cli.planning.advice import candidates, searched
from reflora_cli.planning.devices import named_gpu, own_device
from reflora_cli.planning.plan import Request, planned
from reflora_cli.recipe.files import load_recipe

SAVED = {"a": (30, 0), "b": (20, 0), "c": (15, 5), "d": (10, 0), "e": (0, 40)}
"""What each change saves of a pass, which takes 100 bytes, and of an evaluation, which takes 90."""
OVERLAP = {("a", "b"): 15}
"""What two changes save less of a pass together than apart."""


class Made:
    """Plans by their changes: a run whose peak is in a pass or in an evaluation."""

    def __init__(self, available: int) -> None:
        self.available, self.calls = available, 0

    def __call__(self, changes: tuple[str, ...]) -> Any:
        self.calls += 1
        in_pass, scoring = (full - sum(SAVED[own][part] for own in changes) for part, full in enumerate((100, 90)))
        in_pass += sum(shared for both, shared in OVERLAP.items() if {*both} <= {*changes})
        total = max(in_pass, scoring)
        parts = {"resident": 0, "in_pass": in_pass, "in_step": 0, "scoring": scoring, "saving": 0, "loading": 0}
        memory = SimpleNamespace(total=total, fixed=0, available=self.available, fits=total <= self.available, host={},
                                 **parts)  # fmt: skip
        recipe = SimpleNamespace(train=SimpleNamespace(micro_batch_size=1), eval=SimpleNamespace(batch_size=1))
        return SimpleNamespace(memory=memory, recipe=recipe)


@pytest.mark.parametrize("available", range(20, 100, 5))
def test_the_smallest_combination_is_found(available: int) -> None:
    made = Made(available)
    found = searched([*SAVED], made, made(()))
    ways = [some for size in range(1, 6) for some in itertools.combinations(SAVED, size) if made(some).memory.fits]
    assert found.together == (ways[0] if ways else ())
    assert found.total == (made(ways[0]).memory.total if ways else None)
    assert found.alone == {"a": 90, "b": 90, "c": 85, "d": 90}


@pytest.mark.parametrize(("available", "takes_host"), [(45, False), (40, True)])
def test_host_memory_is_used_where_nothing_else_fits(
    available: int, takes_host: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    streaming = "model.streaming=host"
    monkeypatch.setitem(SAVED, streaming, (60, 60))
    made = Made(available)
    found = searched([*SAVED], made, made(()))
    # The others take at least 45 bytes.
    assert found.together == ((streaming,) if takes_host else ("a", "c", "d", "e"))


def test_few_plans_are_made_where_nothing_fits() -> None:
    made = Made(1)
    assert searched([*SAVED], made, made(())).total is None
    assert made.calls == 1 + len(SAVED) + 2  # the run, each change, and all of them with and without host memory


def test_host_memory_is_advised_for_a_gpu_alone(narrow: str) -> None:
    settings = ["task.max_train_rows=8", "task.max_eval_rows=4", "train.epochs=300", "train.batch_size=4",
                "method.name=lora", f"model.name={narrow}", "model.dtype=float32"]  # fmt: skip
    changes = {"train.offload_activations=true", "model.streaming=host"}
    recipe = load_recipe("quickstart-commonsense", settings)
    assert changes <= {*candidates(planned(recipe, Request(named_gpu("12 GB"))))}
    assert not changes & {*candidates(planned(recipe, Request(own_device())))}
    done = load_recipe("quickstart-commonsense", [*settings, *changes])
    assert not changes & {*candidates(planned(done, Request(named_gpu("12 GB"))))}
