"""A combination changes the base's weights as it says, by PEFT's own reading of all adapters in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.ia3 import IA3Output, ia3_layer
from reflora_cli.combining.combine import combine
from reflora_cli.combining.request import CombineReport, CombineRequest
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import Combining
from tests.unit.combining.adapters import Changes, base, changes, distance, make, weighted

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 6},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 6,
        "rank_pattern": {"v_proj": 2, r"layers\.1\.mlp\.down_proj": 3},
        "alpha_pattern": {"down_proj": 10},
    },
    "other modules": {"r": 2, "lora_alpha": 2, "target_modules": r".*layers\.[01]\..*(k_proj|q_proj)"},
    "vera": {"kind": peft.VeraConfig, "r": 6, "d_initial": 0.3, "target_modules": ["q_proj", "v_proj"]},
}
FURTHER: dict[str, dict[str, Any]] = {
    "second": {"r": 3, "lora_alpha": 9},
    "dora": {"r": 4, "lora_alpha": 6, "use_dora": True},
    "adalora": {"kind": peft.AdaLoraConfig, "init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 10},
    "ia3": {"kind": peft.IA3Config, "feedforward_modules": ["down_proj"]},
}
"""What is not written as LoRA when it is combined alone, or not in the tests of every kind."""
EXACT = 1e-6
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Give an adapter of a kind, made once."""
    root = tmp_path_factory.mktemp("adapters")

    def get(kind: str) -> Path:
        settings = {**KINDS, **FURTHER}
        own, number = settings[kind], list(settings).index(kind)
        return root / kind if (root / kind).exists() else make(root / kind, number, **own)

    return get


def combined(output: Path, adapters: list[Path], **options: Any) -> CombineReport:
    return combine(CombineRequest(tuple(map(str, adapters)), output, **options))


@pytest.mark.parametrize("kind", KINDS)
def test_one_adapter_reproduces_itself(kind: str, made: Made, tmp_path: Path) -> None:
    report = combined(tmp_path / "one", [made(kind)])
    assert distance(changes(tmp_path / "one"), changes(made(kind))) < EXACT
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["use_rslora"], config["lora_alpha"]) == ("LORA", False, config["r"])
    assert report.lost is None


@pytest.mark.parametrize("kind", [*KINDS, "adalora"])
def test_factors_side_by_side_are_the_weighted_sum(kind: str, made: Made, tmp_path: Path) -> None:
    parts = {made(kind): -0.7, made("second"): 1.3}
    combined(tmp_path / "sum", list(parts), weights=(-0.7, 1.3))
    assert distance(changes(tmp_path / "sum"), weighted(parts)) < EXACT


def test_three_adapters_and_one_twice(made: Made, tmp_path: Path) -> None:
    adapters = [made("lora"), made("rslora"), made("lora")]
    report = combined(tmp_path / "sum", adapters, weights=(0.5, 1.0, 0.25))
    assert distance(changes(tmp_path / "sum"), weighted({made("lora"): 0.75, made("rslora"): 1.0})) < EXACT
    assert report.rank == 12
    assert report.weights == (0.5, 1.0, 0.25)


@pytest.mark.parametrize("pair", [("lora", "second"), ("rslora", "vera"), ("patterns", "other modules")])
def test_truncation_is_the_best_of_its_rank(pair: tuple[str, str], made: Made, tmp_path: Path) -> None:
    parts = {made(kind): 1.0 for kind in pair}
    report = combined(tmp_path / "sum", list(parts), how=Combining.SVD, rank=3)
    best, lost = best_of_rank(weighted(parts), 3)
    assert distance(changes(tmp_path / "sum"), best) < EXACT
    assert report.lost == pytest.approx(lost, rel=1e-6)
    assert report.worst is not None
    assert report.worst >= report.lost > 0.05
    config = json.loads((tmp_path / "sum" / "adapter_config.json").read_text())
    assert (config["r"], config["rank_pattern"]) in [(3, {}), (2, config["rank_pattern"]), (3, config["rank_pattern"])]


def test_truncation_at_the_whole_rank_loses_nothing(made: Made, tmp_path: Path) -> None:
    parts = {made("lora"): 1.0, made("second"): 1.0}
    report = combined(tmp_path / "sum", list(parts), how=Combining.SVD, rank=7)
    assert distance(changes(tmp_path / "sum"), weighted(parts)) < EXACT
    assert report.lost == pytest.approx(0, abs=1e-12)


def test_what_is_no_product_of_factors_is_truncated_with_its_error(made: Made, tmp_path: Path) -> None:
    """DoRA's change is W_eff - W, with its magnitudes in it."""
    parts = {made("dora"): 0.5, made("lora"): 1.0}
    report = combined(tmp_path / "sum", list(parts), how=Combining.SVD, rank=20, weights=(0.5, 1.0))
    best, lost = best_of_rank(weighted(parts), 20)
    assert distance(changes(tmp_path / "sum"), best) < EXACT
    assert report.lost == pytest.approx(lost, rel=1e-4)
    whole = combined(tmp_path / "whole", list(parts), how=Combining.SVD, rank=128, weights=(0.5, 1.0))
    assert distance(changes(tmp_path / "whole"), weighted(parts)) < EXACT
    assert whole.lost is not None
    assert whole.lost < 1e-7
    assert lost > 0.01


def test_scaled_outputs_are_truncated_to_a_rank_that_is_given(made: Made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no low-rank factors whose rank could be used"):
        combined(tmp_path / "none", [made("ia3"), made("lora")], how=Combining.SVD)
    parts = {made("ia3"): 1.0, made("lora"): 1.0}
    combined(tmp_path / "sum", list(parts), how=Combining.SVD, rank=12)
    assert distance(changes(tmp_path / "sum"), best_of_rank(weighted(parts), 12)[0]) < EXACT


def test_scaled_outputs_change_a_bias() -> None:
    """On a weight with one, (IA)^3 does what no LoRA can."""
    layer = ia3_layer(freeze(nn.Linear(4, 3)), scales_inputs=False)
    assert layer.changes_bias
    assert not ia3_layer(freeze(nn.Linear(4, 3, bias=False)), scales_inputs=False).changes_bias
    assert not ia3_layer(freeze(nn.Linear(4, 3)), scales_inputs=True).changes_bias


def test_a_layer_that_changes_a_bias_is_refused_when_it_is_read(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IA3Output, "changes_bias", True)
    with pytest.raises(InputError, match="changes a bias, which a LoRA adapter cannot hold"):
        combined(tmp_path / "sum", [made("ia3")], how=Combining.SVD, rank=4)


def test_one_such_adapter_keeps_its_magnitudes(made: Made, tmp_path: Path) -> None:
    combined(tmp_path / "one", [made("dora")])
    before, after = (load_file(own / "adapter_model.safetensors") for own in (made("dora"), tmp_path / "one"))
    assert before.keys() == after.keys()
    assert all(torch.equal(own, after[key]) for key, own in before.items())
    assert distance(changes(tmp_path / "one"), changes(made("dora"))) == 0


@pytest.mark.parametrize("adapters", [["dora", "lora"], ["dora"]])
def test_its_sum_by_factors_is_refused(adapters: list[str], made: Made, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a product of two factors") as caught:
        combined(tmp_path / "sum", [made(kind) for kind in adapters], weights=(0.5,) * len(adapters))
    assert "--how svd" in str(caught.value)
    assert not (tmp_path / "sum").exists()


@pytest.mark.parametrize(("first", "second"), [("lora", "second"), ("rslora", "dora")])
def test_ties_is_what_its_paper_says(first: str, second: str, made: Made, tmp_path: Path) -> None:
    parts = {made(first): 1.0, made(second): 0.6, made("patterns"): 1.2}
    options: dict[str, Any] = {"how": Combining.TIES, "density": 0.3, "weights": tuple(parts.values())}
    report = combined(tmp_path / "ties", list(parts), rank=128, **options)
    each = [(changes(own), weight) for own, weight in parts.items()]
    expected = {name: by_ties([found[name] * weight for found, weight in each], 0.3) for name in each[0][0]}
    assert distance(changes(tmp_path / "ties"), expected) < EXACT
    assert report.lost is not None
    assert report.lost < 1e-7
    low = combined(tmp_path / "low", list(parts), rank=4, **options)
    best, lost = best_of_rank(expected, 4)
    assert distance(changes(tmp_path / "low"), best) < EXACT
    assert low.lost == pytest.approx(lost, rel=1e-4)


def by_ties(weighted_changes: list[Tensor], density: float) -> Tensor:
    """Entry by entry, in plain Python."""
    rows = []
    for change in weighted_changes:
        values = change.flatten().tolist()
        order = sorted(range(len(values)), key=lambda place: -abs(values[place]))
        kept = set(order[: round(density * len(values))])
        rows.append([value if place in kept else 0.0 for place, value in enumerate(values)])
    result = []
    for entries in zip(*rows, strict=True):
        total = sum(entries)
        agreeing = [entry for entry in entries if entry * total > 0]
        result.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return torch.tensor(result, dtype=torch.float64).view_as(weighted_changes[0])


def test_dare_without_drops_is_the_sum(made: Made, tmp_path: Path) -> None:
    parts = {made("rslora"): 1.0, made("second"): -0.5}
    combined(tmp_path / "dare", list(parts), how=Combining.DARE, density=1.0, rank=7, weights=(1.0, -0.5))
    assert distance(changes(tmp_path / "dare"), weighted(parts)) < EXACT


def test_dare_drops_and_rescales_entries_of_the_change(made: Made, tmp_path: Path) -> None:
    whole = changes(made("lora"))
    for output, seed in (("first", 1), ("again", 1), ("other", 2)):
        combined(tmp_path / output, [made("lora")], how=Combining.DARE, density=0.25, rank=128, seed=seed)
    first, again, other = (changes(tmp_path / name) for name in ("first", "again", "other"))
    assert distance(first, again) == 0
    assert distance(first, other) > 0.01
    for name, own in first.items():
        stays = own.abs() > 0.5 * whole[name].abs()
        torch.testing.assert_close(own, torch.where(stays, whole[name] / 0.25, 0), atol=EXACT, rtol=0)
        assert float(stays.double().mean()) == pytest.approx(0.25, abs=0.02)


def best_of_rank(whole: Changes, rank: int) -> tuple[Changes, float]:
    """The best approximations of a rank, by dense decompositions, and the share of the Frobenius norm that is lost."""
    best = {}
    for name, own in whole.items():
        U, S, Vh = torch.linalg.svd(own, full_matrices=False)
        best[name] = U[:, :rank] @ torch.diag(S[:rank]) @ Vh[:rank]
    lost = sum(float((own - best[name]).square().sum()) for name, own in whole.items())
    return best, (lost / sum(float(own.square().sum()) for own in whole.values())) ** 0.5


@pytest.mark.parametrize(
    ("way", "kinds"), [("linear", ("lora", "second-4")), ("svd", ("rslora", "rslora-2")), ("cat", ("dora", "lora"))]
)
def test_where_peft_is_wrong_this_is_right(way: str, kinds: tuple[str, str], tmp_path: Path) -> None:
    """PEFT's `add_weighted_adapter` has cross terms, or forgets rsLoRA's scale or DoRA's magnitudes."""
    settings: dict[str, dict[str, Any]] = {
        "lora": {},
        "second-4": {},
        "dora": {"use_dora": True},
        "rslora": {"use_rslora": True},
        "rslora-2": {"use_rslora": True},
    }
    own = [make(tmp_path / kind, number, r=4, lora_alpha=12, **settings[kind]) for number, kind in enumerate(kinds)]
    expected = weighted(dict.fromkeys(own, 1.0))
    model = peft.PeftModel.from_pretrained(base().double(), own[0], "a", autocast_adapter_dtype=False)
    model.load_adapter(own[1], "b", autocast_adapter_dtype=False)
    model.add_weighted_adapter(["a", "b"], [1.0, 1.0], "c", way, svd_rank=8 if way == "svd" else None)
    model.set_adapter("c")
    model.save_pretrained(tmp_path / "theirs", selected_adapters=["c"])
    how = Combining.SVD if "dora" in kinds else Combining.CONCAT
    combined(tmp_path / "ours", own, how=how, rank=128 if how is Combining.SVD else None)
    scale = max(float(change.abs().max()) for change in expected.values())
    assert distance(changes(tmp_path / "ours"), expected) < EXACT
    assert distance(changes(tmp_path / "theirs" / "c"), expected) > 0.1 * scale


@pytest.mark.parametrize(
    "kind", [peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
             peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)],
    ids=lambda own: own.peft_type.value,
)  # fmt: skip
def test_virtual_tokens_are_refused_with_the_reason(kind: peft.PeftConfig, made: Made, tmp_path: Path) -> None:
    peft.get_peft_model(base(), kind).save_pretrained(tmp_path / "tokens")
    adapters = (str(made("lora")), str(tmp_path / "tokens"))
    with pytest.raises(InputError, match="virtual tokens are put before every row and are part of no weight"):
        combine(CombineRequest(adapters, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
