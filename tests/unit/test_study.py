"""The study of matrix problems runs, and what is a theorem holds in it."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy import stats

ROOT = Path(__file__).parents[2]
STUDY = ROOT / "docs" / "study"
RESULTS = "matrices.jsonl.xz"


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a quick study."""
    output = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(STUDY))
        import_module("matrices").main(["--quick", "--output", str(output)])
    return output


@pytest.fixture(scope="module")
def rows(quick: Path) -> list[dict[str, Any]]:
    text = lzma.decompress((quick / RESULTS).read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a file of the study by its name."""
    monkeypatch.syspath_prepend(str(STUDY))
    return import_module


def test_it_writes_results_a_report_and_figures(quick: Path, rows: list[dict[str, Any]]) -> None:
    report = (quick / "matrices.md").read_text(encoding="utf-8")
    assert "<!-- table" not in report
    assert {path.name for path in quick.glob("*.png")} == set(re.findall(r"\((\S+\.png)\)", report))
    found = {(row["setting"], row["variant"]): row for row in rows if row["kind"] == "result"}
    assert len(found) == 7
    for row in found.values():
        assert len(row["tuning"]) == len(row["rates"])
        assert len(row["fresh"]) == 3
        assert max(row["fresh"]) < -0.5, "at its best rate every method learns"


def test_under_gradient_descent_reflora_does_not_depend_on_the_gauge_and_lora_does(rows: list[dict[str, Any]]) -> None:
    apart = {(row["optimizer"], row["variant"]): row["apart"] for row in rows if row["kind"] == "gauge"}
    for name in ("reflora", "reflora, damping 0"):
        assert max(apart["sgd", name].values()) < 1e-10
    assert max(apart["adamw", "lora-rite"].values()) < 1e-10
    general = "any, cond 10"
    assert apart["sgd", "lora"][general] is None or apart["sgd", "lora"][general] > 0.1
    assert apart["sgd", "lora"]["rotation"] < 1e-10, "rotations do not change gradient descent"
    assert apart["adamw", "reflora"][general] > 0.1, "the theorem is not of Adam"


def test_the_report_is_made_again_from_results_alone(quick: Path, tmp_path: Path, module: Callable[[str], Any]) -> None:
    (tmp_path / RESULTS).write_bytes((quick / RESULTS).read_bytes())
    module("matrices").main(["--report", "--output", str(tmp_path)])
    assert (tmp_path / "matrices.md").read_bytes() == (quick / "matrices.md").read_bytes()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quick"], "give another --output"),
        (["--report", "--output", "nowhere"], "there is no matrices.jsonl.xz in nowhere"),
        (["--fast"], "unrecognized arguments: --fast"),
    ],
)
def test_wrong_arguments_are_told(
    words: list[str], said: str, module: Callable[[str], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        module("matrices").main(words)
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_weights_are_those_that_the_layers_compute_with(module: Callable[[str], Any]) -> None:
    """And the pairs of all rates start alike."""
    plan, runs = module("matrix_plan"), module("matrix_runs")
    setting = plan.settings_of(plan.ADAMW, plan.REGRESSION)[0]
    method = plan.VARIANTS["pissa"].method(setting)
    problem = module("matrix_problems").problem_of(setting.family, [3, 4])
    model = runs.adapted_model(problem, method, [3, 4])
    trial = runs.trial_of(setting, method, [0.1, 0.2], [3, 4])
    eye = torch.eye(setting.family.size, dtype=torch.float64)
    expected = torch.stack([layer(eye).mT.detach() for layer in model.values()])
    for of_rate in trial.weights()[0]:
        torch.testing.assert_close(of_rate.detach(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(expected, problem.bases[0], rtol=0, atol=1e-6)


def test_seeds_and_rates_in_one_optimizer_do_not_see_each_other(module: Callable[[str], Any]) -> None:
    """A run beside others, one of which diverges, is the run alone."""
    plan, runs = module("matrix_plan"), module("matrix_runs")
    setting = runs.replace(plan.settings_of(plan.SGD, plan.FACTORIZATION)[0], steps=20)
    for name in ("reflora, damping 1e-4", "scaled-gd", "altlora", "balanced"):
        method = plan.VARIANTS[name].method(setting)
        beside = runs.losses_of(setting, method, [0.1, 1e4], [3, 4])
        assert (beside[-1, 1] == runs.CEILING).all()
        alone = runs.losses_of(setting, method, [0.1], [4])
        torch.testing.assert_close(beside[:, 0, 1], alone[:, 0, 0], rtol=0, atol=1e-6)


def test_comparisons_are_those_of_scipy_and_of_a_definition(module: Callable[[str], Any]) -> None:
    """Holm's correction and a paired interval, from known numbers."""
    results = module("matrix_results")
    numbers = ([-3.0, -3.5, -2.5, -3.1], [-1.0, -1.2, -1.1, -0.9])
    own, other = (results.Result("", "", [1.0], [[0.0]], 1.0, values, [], []) for values in numbers)
    found = results.compared(own, other)
    differences = torch.tensor(numbers[0]) - torch.tensor(numbers[1])
    half = 3.182446 * float(differences.std()) / 2  # the 97.5 % quantile of t with 3 degrees of freedom
    assert found.low == pytest.approx(float(differences.mean()) - half, abs=1e-5)
    assert found.high == pytest.approx(float(differences.mean()) + half, abs=1e-5)
    assert found.p == pytest.approx(stats.ttest_rel(*numbers).pvalue, rel=1e-9)
    assert found.error == pytest.approx(stats.sem(differences), rel=1e-6)
    loose = [results.Comparison(-1.0, 0, 0, 0.1, p) for p in (0.01, 0.04, 0.02)]
    assert [one.corrected for one in results.corrected(loose)] == pytest.approx([0.03, 0.04, 0.04])
    assert results.compared(own, own).verdict == "tie"


def test_the_committed_report_is_that_of_the_committed_results(module: Callable[[str], Any]) -> None:
    data = module("matrix_data").read_data(STUDY / RESULTS)
    assert module("matrix_report").report(data) == (STUDY / "matrices.md").read_text(encoding="utf-8")
