"""`reflora inspect`: a run and another one, from the command to the files, and wrong input is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from reflora_cli.merging.merge import MergeRequest, merge
from reflora_cli.model.sources import find_source
from reflora_cli.recipe.files import load_recipe
from tests.cli.conftest import FEW, Reflora, train


@pytest.fixture(scope="module")
def moved(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose start moved its base."""
    overrides = ("method.name=pissa", "method.rank=3", "train.steps=4", "train.epochs=null", "eval.at_start=false")
    return train(reflora, recipe, tmp_path_factory.mktemp("runs") / "moved", *FEW, *overrides)


def test_a_run_s_numbers_are_those_of_its_merged_weights(moved: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Merging in float32 rounds weights of size 1, and the change is some 1e-2 of them."""
    outcome = reflora("inspect", moved, "--output", tmp_path / "files", "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    merge(MergeRequest(load_recipe(str(moved / "recipe.yaml")), moved / "adapter", tmp_path / "merged"))
    place = Path(find_source("builtin:tiny-llama", None).location) / "model.safetensors"
    before, after = (load_file(path) for path in (place, tmp_path / "merged" / "model.safetensors"))
    assert len(found["modules"]) == 35
    for own in found["modules"]:
        W, changed = (each[f"{own['module']}.weight"].double().numpy() for each in (before, after))
        sigma = np.linalg.svd(changed - W, compute_uv=False)
        assert own["frobenius"] == pytest.approx(np.linalg.norm(changed - W), rel=1e-3)
        assert own["relative_frobenius"] == pytest.approx(np.linalg.norm(changed - W) / np.linalg.norm(W), rel=1e-3)
        assert own["spectral"] == pytest.approx(sigma[0], rel=1e-3)
        assert (own["low_rank"]["rank"], own["offset_rank"]) == (6, 3)
        assert len(own["trained"]["singular_values"]) == 3
    assert any("moved the base" in note for note in found["notes"])
    stored = json.loads((tmp_path / "files" / "inspection.json").read_text())
    assert {key: found[key] for key in stored} == stored


def test_two_runs_are_compared_in_the_first_one_s_directory(run: Path, moved: Path, reflora: Reflora) -> None:
    outcome = reflora("inspect", run, moved, "--top", 2)
    assert (outcome.status, outcome.out) == (0, ""), outcome.err
    for words in ("by kind of module", "over depth", "most changed", "least changed", "cosine", "phi in", "q_proj"):
        assert words in outcome.err
    tables = outcome.err[: outcome.err.index("\nfiles")]
    listed = [line for line in tables.splitlines() if line.startswith("..")]
    assert len(listed) == len({line.split()[0] for line in listed}) == 4
    assert max(len(line) for line in tables.splitlines() if "  " in line) <= 80
    files = {path.name for path in (run / "inspection").iterdir()}
    assert {"inspection.json", "inspection.csv", "similarity.png", "similarity.svg"} <= files
    again = reflora("inspect", run, "--top", 0, "--json")
    assert again.status == 0, again.err
    assert "most changed" not in again.err
    assert {path.name for path in (run / "inspection").iterdir()} == set(again.json["files"])
    assert reflora("eval", run, "--limit", 4).status == 0


def test_without_its_base_a_run_tells_the_rest(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    place = tmp_path / "adapter"
    shutil.copytree(run / "adapter", place)
    record = json.loads((place / "reflora.json").read_text())
    record["base"] |= {"name": "gone", "path": str(tmp_path / "gone"), "sha256": "0" * 64}
    (place / "reflora.json").write_text(json.dumps(record))
    outcome = reflora("inspect", place, "--json")
    assert outcome.status == 0, outcome.err
    assert "the base's weights are missing" in outcome.err
    assert outcome.json["base"] is None
    assert outcome.json["total"]["relative"] is None
    assert outcome.json["total"]["effective_rank"] > 0
    assert "magnitude_direction.png" not in outcome.json["files"]
    other = reflora("inspect", place, "--base", "builtin:tiny-llama")
    assert other.status == 2
    assert "not the one that the adapter was trained on" in other.err


WRONG = {
    "nothing there": (["nowhere"], ["the adapter directory does not exist", "nowhere"]),
    "no adapter": (["{here}"], ["this directory holds no adapter"]),
    "no second": (["{run}", "nowhere"], ["the adapter directory does not exist", "nowhere"]),
    "output": (["{run}", "--output", "{run}/recipe.yaml"], ["the output is a file"]),
    "top": (["{run}", "--top", "-1"], ["--top"]),
    "base": (["{run}", "--base", "no/such/place"], ["base model"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused(case: str, trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    arguments, words = WRONG[case]
    outcome = reflora("inspect", *(own.format(run=trained, here=tmp_path) for own in arguments))
    assert outcome.status == 2, outcome.err
    assert "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert not (trained / "inspection").exists()
