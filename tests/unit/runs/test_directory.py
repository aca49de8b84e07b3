"""What a run directory holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.runs.directory import RunDirectory, default_output, open_run, refuse_links, step_of


def test_a_run_is_a_directory_with_a_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        open_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("")
    assert open_run(tmp_path) == RunDirectory(tmp_path)


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    for step in (1000000, 20, 5):
        run.checkpoint(step).mkdir(parents=True)
    (tmp_path / "checkpoints" / ".step-000030.tmp").mkdir()
    assert [path.name for path in run.checkpoints()] == ["step-000005", "step-000020", "step-1000000"]


def test_what_else_lies_beside_checkpoints_is_the_user_s(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.checkpoints() == []
    for path in (run.checkpoint(8), run.stopped_checkpoint(8), run.stopped_checkpoint(9)):
        path.mkdir(parents=True)
    for name in ("step-000008.bak", "step-000008-best", "step-8", "step-000010 (copy)", "notes"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints" / "step-000099").write_text("a file")
    assert run.checkpoints() == [run.stopped_checkpoint(8), run.checkpoint(8), run.stopped_checkpoint(9)]
    assert list(map(step_of, run.checkpoints())) == [8, 8, 9]


@pytest.mark.parametrize("name", ["adapter", "metrics.jsonl", "checkpoints/step-000001", "adapter/adapter_config.json"])
def test_links_out_of_a_run_are_refused(name: str, tmp_path: Path) -> None:
    run, elsewhere = RunDirectory(tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    run.path.mkdir()
    refuse_links(run)
    place = run.path / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(elsewhere)
    with pytest.raises(InputError, match="link") as caught:
        refuse_links(run)
    assert caught.value.problems[0].where == str(place)


def test_two_runs_that_start_in_one_second_have_two_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = set()
    for _ in range(3):
        path = default_output("glue/cola", "lora", 7)
        path.mkdir(parents=True)
        found.add(path)
    assert len(found) == 3
    assert all(str(path).startswith("runs/cola-lora-s7-2") for path in found)
