"""Benchmarks and robustness tools are run by hand: that they fit the package is tested here."""

from __future__ import annotations

import importlib
import json
import re
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from reflora_cli.ground.errors import InputError, Problem
from tests.benchmarks import epochs, measured, suite, tables
from tests.benchmarks.parts import Outcome, Part, figures_of, run, run_all
from tests.benchmarks.runner import run_shown
from tests.benchmarks.setting import Outcome as SettingOutcome
from tests.benchmarks.setting import Setting
from tests.gpu import __main__ as gpu

TESTS = Path(__file__).parents[1]
TOOLS = sorted(
    f"tests.{path.parent.name}.{path.stem}"
    for folder in ("benchmarks", "robustness", "gpu")
    for path in (TESTS / folder).glob("*.py")
    if not path.stem.startswith("__")
)


@pytest.mark.parametrize("name", TOOLS)
def test_a_tool_finds_what_it_imports(name: str) -> None:
    assert importlib.import_module(name).__doc__


def test_the_tables_of_the_pages_are_those_of_the_figures() -> None:
    """Otherwise `python -m tests.benchmarks.measured` writes them anew."""
    page = (measured.ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    shown = {name for _, name, _, _ in measured.BLOCK.findall(page)}
    assert shown == {path.stem for path in measured.FIGURES.glob("*.json")}
    assert list(measured.differing()) == []
    assert [line for line in measured.BLOCK.sub("", page).splitlines() if line.startswith("|")] == []


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page that is not written yet; figures go beside it."""
    monkeypatch.setattr(measured, "FIGURES", tmp_path)
    path = tmp_path / "page.md"
    monkeypatch.setattr(measured, "PAGES", (path,))
    return path


def test_a_table_that_is_not_that_of_its_figures_is_found(page: Path) -> None:
    columns, rows = {"ratio": measured.Column("ratio", ".2f")}, {"one way": {"ratio": 1.25}}
    measured.write("own", measured.Table(columns, rows, "a CPU", "2026-11-28", "2.13", "python x"))
    page.write_text("before\n<!-- measured: own -->\n| 1.05 |\n<!-- end -->\nafter\n", encoding="utf-8")
    assert list(measured.differing()) == [page]
    measured.render()
    text = page.read_text(encoding="utf-8")
    assert list(measured.differing()) == []
    assert "1.05" not in text
    assert "| one way | 1.25 |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")


def test_values_of_a_table_are_shown_as_they_were_measured() -> None:
    column = measured.Column("score", ".2f x")
    assert column.shown(1.234) == "1.23 x"
    assert column.shown([1.0, 2.0, 3.0]) == "2.00 ± 1.00 x (3)"
    assert column.shown([1.5]) == "1.50 x (1)"
    assert column.shown(None) == "not measured"


def test_figures_become_a_table_and_come_back_from_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "FIGURES", tmp_path)
    seconds = {"frozen floor": [1.0, 2.0, 3.0], "reflora lora": [4.0, 3.0, 2.0]}
    both = dict.fromkeys(seconds, 2**21)
    figures = {"seconds": seconds, "saved": both, "peaks": {}, "flops": dict.fromkeys(seconds, 8), "tokens": 6,
               "threads": 3}  # fmt: skip
    made = tables.layers_table(figures, tables.Origin("2026-11-28", "python x"), product_flops=16.0)
    measured.write("own", made)
    assert measured.read("own") == made
    text = measured.read("own").markdown()
    assert "| reflora LoRA | 3000.0 | 1.50 | 2 | 2 MiB | 17% |" in text
    assert "peak |" not in text.replace("product peak |", "")  # no column without a value
    assert "2026-11-28" in text


def test_a_part_that_fails_or_takes_too_long_loses_only_itself() -> None:
    parts = {
        "fails": Part(("-c", "print('seen'); raise SystemExit(3)"), 20),
        "late": Part(("-c", "import time; print('begun', flush=True); time.sleep(60)"), 3),
        "good": Part(("-c", "print('table'); print('{\"x\": 1}')"), 20),
    }
    found = dict(run_all(parts, 60))
    assert [own.status for own in found.values()] == [3, None, 0]
    assert "seen" in found["fails"].printed
    assert "begun" in found["late"].printed
    assert (found["good"].figures, found["good"].printed.strip()) == ({"x": 1}, "table")
    assert "ended at its limit" in found["late"].shown("late")


def test_a_part_whose_time_is_over_ends_with_what_it_started(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    child = f"import time\nwhile True: open({str(alive)!r}, 'w').close(); time.sleep(0.05)"
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    outcome = run(Part(("-c", program), 60), 3)
    assert outcome.status is None
    assert outcome.seconds < 30, "the child holds the pipes"
    assert alive.exists()
    alive.unlink()
    time.sleep(0.5)
    assert not alive.exists()


def test_parts_are_kept_as_figures_and_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = {"good": Part(("-c", "print('table'); print('{\"x\": 1}')"), 20), "bad": Part(("-c", "x"), 20)}
    found = run_shown(parts, 60, tmp_path / "own.json")
    assert figures_of(found) == {"good": {"x": 1}}
    kept = json.loads((tmp_path / "own.json").read_text(encoding="utf-8"))["parts"]
    assert {name: (own["status"], own["figures"]) for name, own in kept.items()} == {
        "good": (0, {"x": 1}), "bad": (1, None),
    }  # fmt: skip
    text = (tmp_path / "own.md").read_text(encoding="utf-8")
    for shown in (text, capsys.readouterr().err):
        assert "## good: done" in shown
        assert "table" in shown
        assert "NameError" in shown


def test_the_processor_s_time_stands_still_while_a_module_waits() -> None:
    own = ("-m", "tests.benchmarks.processor_time", "timeit", "-n1", "-r1", "-usec", "__import__('time').sleep(0.5)")
    outcome = run(Part(own, 20), 20)
    assert outcome.status == 0, outcome.printed
    (seconds,) = re.findall(r"best of 1: ([\d.e-]+) sec", outcome.printed)
    assert float(seconds) < 0.25


def test_a_way_that_a_model_refuses_is_left_out_of_epochs(capsys: pytest.CaptureFixture[str]) -> None:
    def refusing(setting: Setting, directory: Path) -> SettingOutcome:
        raise InputError(Problem("this model cannot"))

    good = SettingOutcome("own", {"accuracy": 1.0}, {}, 2.0, 1)
    ways: dict[str, epochs.Way] = {"one": (lambda setting, directory: good, {}), "other": (refusing, {"packed": True})}
    setting = Setting("task", "base", "hub", "lora", 0, 8, 1e-3, 1, 1)
    assert epochs.measure(ways, setting, 2) == {"one": [good, good]}
    assert "other: left out: this model cannot" in capsys.readouterr().err


def test_parts_do_not_begin_when_the_time_of_all_is_over() -> None:
    (found,) = dict(run_all({"late": Part(("-c", ""), 20)}, 1)).values()
    assert found.status is None
    assert "not begun" in found.printed


LAYERS = {
    "seconds": {"frozen floor": [1.0, 1.0, 1.0], "reflora lora": [2.0, 2.0, 2.0]},
    "saved": {"frozen floor": 0, "reflora lora": 2**20},
    "peaks": {"frozen floor": 2**30, "reflora lora": 2**31},
    "flops": {"frozen floor": 4, "reflora lora": 4},
    "tokens": 10,
    "threads": 3,
}
STEP = {"deberta": {way: {"seconds": [seconds] * 3, "error": 0.0} for way, seconds in (("one by one", 4.0),
        ("reflora", 2.0))}}  # fmt: skip


def test_make_gpu_writes_the_tables_of_the_parts_that_ended_well(page: Path) -> None:
    page.write_text("<!-- measured: layers-gpu -->\n<!-- end -->\n", encoding="utf-8")
    found = {
        gpu.PRODUCTS: Outcome(0, {"product_flops": 8.0}, "", 1.0),
        gpu.BILLION: Outcome(0, LAYERS, "", 1.0),
        gpu.NF4: Outcome(1, LAYERS, "", 1.0),
        gpu.ENCODER: Outcome(None, None, "", 1.0),
        gpu.STEP: Outcome(0, STEP, "", 1.0),
    }
    gpu.keep(gpu.parts("cuda"), found, "2026-11-30")
    assert sorted(path.stem for path in page.parent.glob("*.json")) == ["layers-gpu", "reflora-step-gpu"]
    text = page.read_text(encoding="utf-8")
    assert "| reflora LoRA | 2000.0 | 2.00 | 5 | 1 MiB | 2,048 MiB | 25% |" in text
    assert "2026-11-30" in text
    assert measured.read("reflora-step-gpu").rows == {
        "DeBERTaV3-base, rank 8": {"theirs_ms": 4000.0, "ours_ms": 2000.0, "times": 2.0}
    }


def test_make_bench_writes_the_tables_of_the_parts_that_ended_well(page: Path) -> None:
    page.write_text("<!-- measured: epochs -->\n<!-- end -->\n", encoding="utf-8")
    found = {
        "layers": Outcome(1, LAYERS, "", 1.0),
        "epoch, CoLA": Outcome(0, {"seconds": {"reflora": [3.0, 1.0, 2.0]}, "train_rows": 640}, "", 1.0),
        "epoch, MRPC": Outcome(0, {"seconds": {"reflora": [4.0]}, "train_rows": None}, "", 1.0),
    }
    suite.keep(suite.plan(Path("data")), found, "2026-11-30")
    assert [path.stem for path in page.parent.glob("*.json")] == ["epochs"]
    text = page.read_text(encoding="utf-8")
    assert "| CoLA, 640 rows | MRPC, all rows |" in text
    assert "| reflora | 2.0 s | 4.0 s |" in text


def test_tiny_parts_are_those_of_a_gpu() -> None:
    large, tiny = gpu.parts("cuda"), gpu.tiny_parts("cpu")
    assert list(large) == list(tiny)
    for name, own in large.items():
        assert own.arguments[:2] == tiny[name].arguments[:2], name
    assert set(gpu.PAGES) <= set(large)


def here(part: Part, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The figures of a part that runs in this process, which has imported everything already."""
    _, module, *arguments = part.arguments
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(module).main()
    torch.set_num_threads(threads)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize("name", gpu.tiny_parts("cpu"))
def test_a_part_of_make_gpu_runs_on_the_cpu(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    part = gpu.tiny_parts("cpu")[name]
    if name in ("tests", "epoch"):  # pytest in pytest, and a Trainer, which changes how the process warns and logs
        outcome = run(part, 240)
        assert outcome.status == 0, outcome.printed[-3000:]
        return
    figures = here(part, monkeypatch, capsys)
    origin = tables.Origin("2026-11-28", part.command)
    if name in gpu.PAGES:
        ratios = [row["ratio"] for row in tables.layers_table(figures, origin, 1e12).rows.values()]
        assert len(ratios) == len(tables.WAYS)
    elif name == gpu.STEP:
        assert tables.step_table(figures, origin).rows
    else:
        assert figures
