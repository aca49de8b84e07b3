"""A run that compiles its model: followed, interrupted, in two processes, and where nothing can be compiled."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config

from tests.cli.conftest import FEW, Reflora, step_losses
from tests.two_processes import run_by_two

SETTINGS = (
    *FEW, "method.targets=[q_proj]", "train.epochs=null", "train.steps=4", "train.warmup_steps=1",
    "train.batch_size=16", "train.log_every=1", "train.checkpoint_every=2", "eval.at_start=false",
)  # fmt: skip
COMPILED = (*SETTINGS, "train.compile=true")
WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled code, which the tests of this file share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def has_compiler() -> None:
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++")):
        pytest.skip("no C++ compiler, which torch.compile needs on a CPU")


def results_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "results.json").read_text()))


@pytest.fixture(scope="module")
def compiled(has_compiler: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A compiled run, and what it said."""
    run = tmp_path_factory.mktemp("compiled") / "run"
    said = subprocess.run(
        [sys.executable, "-m", "reflora_cli", "train", "quickstart", *COMPILED, "--output", str(run)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return run, said.stderr


def test_a_compiled_run_follows_an_eager_one(compiled: tuple[Path, str], reflora: Reflora, tmp_path: Path) -> None:
    run, said = compiled
    assert "compiling 5 blocks (LlamaDecoderLayer)" in said
    eager = tmp_path / "eager"
    assert reflora("train", "quickstart", *SETTINGS, "--output", eager).status == 0
    assert step_losses(run) == pytest.approx(step_losses(eager), rel=1e-5)
    found, other = results_of(run), results_of(eager)
    assert found["compile"] is True
    assert found["compile_seconds"] > found["step_seconds"]["p95"]
    assert "compile" not in other
    assert "compile_seconds" not in other


def test_its_adapter_is_scored_and_merged_as_any_other(
    compiled: tuple[Path, str], reflora: Reflora, tmp_path: Path
) -> None:
    run, _ = compiled
    outcome = reflora("eval", run, "--json")
    assert outcome.status == 0, outcome.err
    assert outcome.json["scores"] == results_of(run)["scores"]
    assert reflora("merge", run, "--output", tmp_path / "merged").status == 0


def test_a_continued_run_is_the_uninterrupted_one(compiled: tuple[Path, str], reflora: Reflora, tmp_path: Path) -> None:
    whole, _ = compiled
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    (run / "results.json").unlink()
    outcome = reflora("train", "quickstart", *COMPILED, "--output", run, "--resume")
    assert outcome.status == 0, outcome.err
    assert "compiled in" in outcome.err
    assert step_losses(run) == step_losses(whole)
    assert (run / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert results_of(run)["compile_seconds"] > results_of(whole)["compile_seconds"]


def test_two_processes_compile(compiled: tuple[Path, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    _, said = run_by_two("train", "quickstart", *COMPILED, "--output", run)
    assert "compiled in" in said
    assert results_of(run)["compile"] is True
    assert step_losses(run) == pytest.approx(step_losses(compiled[0]), rel=1e-4)


def test_without_a_compiler_a_run_is_the_eager_one(
    reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "empty"))
    torch.compiler.reset()
    settings = ("method.dropout=0.1",)  # masks too are those of a run that compiles nothing
    outcomes = []
    for name, own in (("failed", COMPILED), ("eager", SETTINGS)):
        with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
            outcome = reflora("train", "quickstart", *own, *settings, "--output", tmp_path / name)
        assert outcome.status == 0, outcome.err
        outcomes.append(outcome.err)
    assert "the model is not compiled and runs eagerly: no C++ compiler was found: install g++" in outcomes[0].replace(
        "\n", " "
    )
    assert "compiling 5 blocks" not in outcomes[0], "it is found out at once"
    assert "cannot be compiled and runs eagerly" not in outcomes[0], "it is said twice"
    found = results_of(tmp_path / "failed")
    assert found["compile"] is False
    assert found["not_compiled"]
    assert found["not_compiled"] in outcomes[0].replace("\n", " ")
    assert step_losses(tmp_path / "failed") == step_losses(tmp_path / "eager")
    assert (tmp_path / "failed" / WEIGHTS).read_bytes() == (tmp_path / "eager" / WEIGHTS).read_bytes()


def test_a_run_that_looks_at_every_module_is_not_compiled(reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", "quickstart", *COMPILED, "--detect-anomaly", "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err
    assert "--detect-anomaly" in results_of(tmp_path / "run")["not_compiled"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["train.compile=turbo"], "true or false or one of default, reduce-overhead"),
        (["train.compile=true", "model.sharded=true"], "cannot compile blocks with sharded weights"),
        (["train.compile=true", "model.streaming=host"], "cannot compile blocks with streamed weights"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(settings: list[str], said: str, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("train", "quickstart", *settings, "--output", tmp_path / "run")
    assert outcome.status == 2
    assert said in " ".join(outcome.err.split())
    assert "train.compile" in outcome.err


def test_nothing_of_the_compiler_is_imported_unasked() -> None:
    """By this package: some of transformers' own files ask for it."""
    program = (
        "import sys, torch, accelerate, transformers; before = 'torch._dynamo' in sys.modules;"
        "import reflora_cli.training.train; print(before, 'torch._dynamo' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said.split()[0] == said.split()[1]
