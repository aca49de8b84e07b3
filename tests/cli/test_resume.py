"""What happens to a run between two of its processes: nothing of it is lost, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reflora_cli.training import step as step_module
from reflora_cli.training.checkpoint import manifest_of
from tests.cli.conftest import FEW, Reflora, records, step_losses
from tests.forked import Forked

WEIGHTS = "adapter/adapter_model.safetensors"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
TRAIN = ("reflora_cli", "train", "quickstart", "train.log_every=1")


@pytest.fixture
def stopped(run: Path) -> Path:
    """A run that was killed after its last checkpoint but one, at step 16 of 20."""
    shutil.rmtree(run / "checkpoints" / "step-000020")
    for name in ("results.json", "curves.png"):
        (run / name).unlink()
    return run


def resumed(reflora: Reflora, recipe: Path, run: Path, *more: object) -> str:
    outcome = reflora("train", recipe, *more, "--output", run, "--resume")
    assert outcome.status == 0, outcome.err
    return outcome.err


def test_a_changed_recipe_is_told_key_by_key(run: Path, recipe: Path, reflora: Reflora) -> None:
    """Also where another section has a key of the same name and value."""
    changes = ("train.batch_size=64", "eval.batch_size=32", "method.refactor.interval=2")
    outcome = reflora("train", recipe, *changes, "--output", run, "--resume")
    assert outcome.status == 2
    assert "found: method.update.interval: 2; train.batch_size: 64; eval.batch_size: 32" in outcome.err
    assert "expected: method.update.interval: 1; train.batch_size: 32; eval.batch_size: 64" in outcome.err


def test_curves_that_cannot_be_written_are_drawn_when_the_run_is_continued(
    stopped: Path, recipe: Path, reflora: Reflora
) -> None:
    (stopped / "curves.png").mkdir()
    outcome = reflora("train", recipe, "--output", stopped, "--resume")
    assert outcome.status == 2
    assert "cannot write" in outcome.err
    assert "curves.png" in outcome.err
    (stopped / "curves.png").rmdir()
    resumed(reflora, recipe, stopped)
    assert (stopped / "curves.png").is_file()


def test_a_lost_recipe_is_said_to_be_lost(stopped: Path, recipe: Path, reflora: Reflora) -> None:
    shutil.move(stopped / "recipe.yaml", stopped.parent / "recipe.yaml")
    outcome = reflora("train", recipe, "--output", stopped, "--resume")
    assert outcome.status == 2
    assert "the recipe of the run is missing" in outcome.err
    shutil.move(stopped.parent / "recipe.yaml", stopped / "recipe.yaml")
    resumed(reflora, recipe, stopped)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"model: ["])
def test_a_damaged_recipe_is_named(content: bytes, stopped: Path, recipe: Path, reflora: Reflora) -> None:
    (stopped / "recipe.yaml").write_bytes(content)
    outcome = reflora("train", recipe, "--output", stopped, "--resume")
    assert outcome.status == 2
    assert str(stopped / "recipe.yaml") in outcome.err


def test_the_best_adapter_is_that_of_the_checkpoint(
    stopped: Path, trained: Path, recipe: Path, reflora: Reflora
) -> None:
    """Whatever became of the directory meanwhile: a later adapter, a flipped bit, nothing at all."""
    shutil.rmtree(stopped / "adapter")
    (stopped / "adapter").mkdir()
    (stopped / WEIGHTS).write_bytes(b"\0" * 100)
    resumed(reflora, recipe, stopped)
    for name in (WEIGHTS, "adapter/adapter_config.json", "adapter/reflora.json"):
        assert (stopped / name).read_bytes() == (trained / name).read_bytes()


def test_an_adapter_that_was_not_repeated_equal_is_not_kept(stopped: Path, recipe: Path, reflora: Reflora) -> None:
    """A best score that no later evaluation reaches again, as on a GPU: its adapter is in the checkpoint."""
    place = stopped / "checkpoints" / "step-000016"
    state = json.loads((place / "state.json").read_text())
    state["best_score"] = 2.0
    (place / "state.json").write_text(json.dumps(state))
    (place / "manifest.json").write_text(manifest_of(place))
    expected = load_file(place / "best.safetensors")
    resumed(reflora, recipe, stopped)
    found = load_file(stopped / WEIGHTS)
    assert json.loads((stopped / "results.json").read_text())["selected_step"] == state["best_step"]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_what_is_removed_while_a_run_is_under_way_is_written_again(
    recipe: Path, trained: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, accumulate = tmp_path / "run", step_module.accumulate

    def remove(session: Any, rows: list[int]) -> Any:
        if session.progress.step == 13:
            shutil.rmtree(run / "adapter")
            (run / "metrics.jsonl").unlink()
            shutil.copytree(run / "checkpoints" / "step-000008", run / "checkpoints" / "step-000008.bak")
        return accumulate(session, rows)

    monkeypatch.setattr(step_module, "accumulate", remove)
    outcome = reflora("train", recipe, "--output", run)
    assert outcome.status == 0, outcome.err
    assert (run / WEIGHTS).read_bytes() == (trained / WEIGHTS).read_bytes()
    assert (run / "checkpoints" / "step-000008.bak").is_dir()
    assert reflora("eval", run, "--limit", 8).status == 0


def test_no_line_of_the_log_is_doubled(stopped: Path, trained: Path, recipe: Path, reflora: Reflora) -> None:
    """Also where the first lines are gone, so that their number does not tell what came after the checkpoint."""
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[2:]) + '{"event": "st')
    resumed(reflora, recipe, stopped)
    steps = [record["step"] for record in records(stopped, "step")]
    assert steps == sorted(set(steps))
    assert steps[-1] == 20
    assert set(step_losses(stopped)) <= set(step_losses(trained))


@pytest.mark.parametrize("content", [None, b"{", b"[[1]]"])
def test_a_lost_environment_is_noted(content: bytes | None, stopped: Path, recipe: Path, reflora: Reflora) -> None:
    path = stopped / "environment.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert "environment.json is missing or damaged" in resumed(reflora, recipe, stopped)
    assert json.loads(path.read_text())["base"]["name"] == "builtin:tiny-llama"


@pytest.mark.parametrize("name", ["adapter", "checkpoints", "metrics.jsonl", ".lock"])
def test_nothing_is_written_through_a_link(name: str, stopped: Path, recipe: Path, reflora: Reflora) -> None:
    elsewhere = stopped.parent / "elsewhere"
    if (stopped / name).exists():
        shutil.move(stopped / name, elsewhere)
    else:
        elsewhere.write_text("precious")
    (stopped / name).symlink_to(elsewhere)
    paths = [elsewhere, *elsewhere.rglob("*")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    outcome = reflora("train", recipe, "--output", stopped, "--resume")
    assert outcome.status == 2, outcome.err
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_a_name_that_is_no_text_is_refused_at_once(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", recipe, "--output", f"{tmp_path}/\udcff")
    assert outcome.status == 2
    assert "is not valid text" in outcome.err
    assert not list(tmp_path.iterdir())


def test_a_score_that_is_no_number_is_divergence(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is kept as the best, and what was saved before is still there."""
    from reflora_cli.objectives.sequence_tally import SequenceTally

    scores, count = SequenceTally.scores, 0

    def overflowing(self: SequenceTally) -> dict[str, float]:
        nonlocal count
        count += 1
        return {**scores(self), **({"loss": float("nan")} if count == 3 else {})}

    monkeypatch.setattr(SequenceTally, "scores", overflowing)
    outcome = reflora("train", recipe, "--output", tmp_path / "run")
    assert outcome.status == 3
    assert "evaluation after step 20 of 20" in outcome.err
    assert "loss of validation: nan" in outcome.err
    assert reflora("train", recipe, "--output", tmp_path / "run", "--resume").status == 0


def test_an_adapter_with_which_nothing_finite_is_computed_is_not_scored(run: Path, reflora: Reflora) -> None:
    from safetensors.torch import save_file

    tensors = load_file(run / WEIGHTS)
    save_file({name: tensor * 1e30 for name, tensor in tensors.items()}, run / WEIGHTS, {"format": "pt"})
    outcome = reflora("eval", run, "--limit", 8, "--json")
    assert outcome.status == 2
    assert "the adapter's values overflow" in outcome.err


def test_a_spike_of_the_loss_is_told(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = step_module.read

    def spiking(session: Any, loss: Any, norm: Any) -> tuple[float, float]:
        value, size = read(session, loss, norm)
        return (value * 50 if session.progress.step == 30 else value), size

    monkeypatch.setattr(step_module, "read", spiking)
    settings = ("train.epochs=4", "eval.every=never", "eval.select=last", "eval.at_start=false", "task.max_length=16")
    outcome = reflora("train", recipe, *settings, "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    (spike,) = records(tmp_path / "run", "spike")
    assert spike["step"] == 31
    assert spike["largest_gradient"] in outcome.err
    assert re.search(r"step 31: loss \S+ is far above", outcome.err)


def test_settings_of_the_launcher_change_no_run(recipe: Path, reflora: Reflora, tmp_path: Path) -> None:
    few = (*FEW, "train.log_every=1")
    assert reflora("train", recipe, *few, "--output", tmp_path / "plain").status == 0
    environment = {**ENVIRONMENT, "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4", "ACCELERATE_MIXED_PRECISION": "bf16",
                   "ACCELERATE_DYNAMO_BACKEND": "eager"}  # fmt: skip
    arguments = ("train", recipe, *few, "--output", tmp_path / "launched")
    status, _, said = Forked("reflora_cli", *arguments, environment=environment).ended()
    assert status == 0, said
    assert step_losses(tmp_path / "launched") == step_losses(tmp_path / "plain")


def test_engines_that_are_not_ours_are_refused(
    recipe: Path, reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    outcome = reflora("train", recipe, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert "ACCELERATE_USE_DEEPSPEED" in outcome.err


@pytest.mark.parametrize("command", ["merge", "export"])
def test_other_commands_are_one_process_s_work(
    command: str, trained: Path, reflora: Reflora, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    options = ["--format", "peft"] if command == "export" else []
    outcome = reflora(command, trained, *options)
    assert outcome.status == 2
    assert "one process" in outcome.err


def test_a_closed_terminal_stops_a_run_cleanly(tmp_path: Path) -> None:
    """Its standard error is gone, and it gets SIGHUP."""
    process = Forked(*TRAIN, "--output", tmp_path / "run")
    while not process.stderr.readline().startswith("step 3/"):
        assert process.poll() is None
    process.stderr.close()
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 129
    assert list(tmp_path.glob("run/checkpoints/step-*-stopped"))


def test_a_reader_that_ends_stops_no_run(tmp_path: Path) -> None:
    settings = ("train.steps=5", "train.epochs=null", "method.refactor.warmup_steps=1", "task.max_eval_rows=8",
                "train.warmup_steps=1")  # fmt: skip
    process = Forked(*TRAIN, *settings, "--output", tmp_path / "run")
    process.stderr.readline()
    process.stderr.close()
    assert process.wait(120) == 0
    assert (tmp_path / "run" / "results.json").exists()
