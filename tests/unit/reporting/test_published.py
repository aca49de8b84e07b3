"""Published scores stand beside ours only where method, task, metric and base are the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reflora_cli.methods.presets import PRESETS
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.library import bundled_recipes
from reflora_cli.reporting.cells import Wanted
from reflora_cli.reporting.find import find_runs
from reflora_cli.reporting.published import Beside, beside, is_base, published
from reflora_cli.reporting.tables import make_groups
from reflora_cli.tasks.registry import TASKS
from tests.unit.reporting.made_runs import Made, make_run

DEBERTA = "microsoft/deberta-v3-base"


def beside_of(place: Path) -> list[Beside]:
    found = find_runs([place])
    return [own for group in make_groups(found.final, [], Wanted()) for own in beside(group)]


def cola(method: str = "reflora", **more: object) -> Made:
    sets = ["task.max_length=64", "train.learning_rate=1e-3", "train.epochs=5"]
    given = {"method": method, "task": "glue/cola", "metric": "matthews", "base": DEBERTA, "score": 0.7, "sets": sets}
    return Made(**{**given, **more})  # type: ignore[arg-type]


def test_every_published_score_is_of_a_known_method_task_and_recipe() -> None:
    assert len(published()) > 100
    for own in published():
        assert own.method in PRESETS
        assert own.task in TASKS
        assert 50 < own.score < 100
        assert not own.recipe or own.recipe in bundled_recipes()


def test_the_scores_in_recipes_comments_are_those_of_the_file() -> None:
    checked = 0
    for name, path in bundled_recipes().items():
        text = " ".join(path.read_text(encoding="utf-8").replace("#", "").split())
        said = re.search(r"Published(?: for RefLoRA)?: ([0-9]+\.[0-9]+) ", text)
        if said and name.startswith(("glue/", "commonsense/")):
            recipe = load_recipe(name)
            named = [own for own in published() if own.recipe == name]
            alike = [own for own in published() if own.method == recipe.method.name and recipe.model.name in own.bases]
            assert float(said[1]) in [own.score for own in named[:1] or alike], name
            checked += 1
    assert checked == 8 + 3 * 8 + 1 + 5


def test_a_published_score_stands_beside_ours_with_what_differs(tmp_path: Path) -> None:
    make_run(tmp_path / "a", cola())
    (own,) = beside_of(tmp_path)
    assert (own.published.score, own.ours.mean) == (71.73, 70.0)
    said = "; ".join(own.differs)
    assert "seeds 5 there, 1 here" in said
    assert "targets query_proj" in said
    assert "epochs" not in said


def test_a_rank_that_differs_is_said(tmp_path: Path) -> None:
    make_run(tmp_path / "a", cola("lora", sets=["method.rank=2", "task.max_train_rows=99"]))
    (own,) = beside_of(tmp_path)
    assert {"rank 8 there, 2 here", "99 training rows here"} <= set(own.differs)


@pytest.mark.parametrize(
    "other",
    [
        {"base": "builtin:tiny-llama"},
        {"task": "builtin/acceptability"},
        {"metric": "accuracy"},
        {"method": "pissa"},
        {"sets": ["method.layer=dora"]},
    ],
)
def test_no_published_score_stands_beside_another_run(tmp_path: Path, other: dict[str, object]) -> None:
    make_run(tmp_path / "a", cola(**other))
    assert beside_of(tmp_path) == []


def test_bases_go_by_their_names() -> None:
    assert is_base("hub:microsoft/DeBERTa-v3-base", DEBERTA)
    assert is_base("/models/deberta-v3-base/", DEBERTA)
    assert not is_base("deberta-v3-base", DEBERTA)
    assert not is_base("someone/deberta-v3-base", DEBERTA)
