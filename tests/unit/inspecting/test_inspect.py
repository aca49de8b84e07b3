"""Adapters made by PEFT, and its own merge in float64: an inspection tells what dense matrices tell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from reflora_cli.ground.errors import InputError
from reflora_cli.inspecting.inspect import Inspection, InspectRequest, inspect
from reflora_cli.inspecting.modules import Module
from reflora_cli.inspecting.written import as_json, write
from tests.unit.combining.adapters import PLACE, base, base_weights, changes, make
from tests.unit.inspecting import dense

KINDS: dict[str, dict[str, Any]] = {
    "lora": {"r": 4, "lora_alpha": 6},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True, "rank_pattern": {"v_proj": 2}},
    "dora": {"r": 4, "lora_alpha": 6, "use_dora": True},
    "vera": {"kind": peft.VeraConfig, "r": 6, "d_initial": 0.3, "target_modules": ["q_proj", "v_proj"]},
    "adalora": {"kind": peft.AdaLoraConfig, "init_r": 4, "target_r": 2, "lora_alpha": 6, "total_step": 10},
    "ia3": {"kind": peft.IA3Config, "feedforward_modules": ["down_proj"]},
}
LOW_RANK = ("lora", "rslora", "vera", "adalora")
HAS_PAIRS = ("lora", "rslora", "dora")
MODULE = "model.layers.1.self_attn.v_proj"
Made = Callable[[str], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Give an adapter of a kind, made once."""
    root = tmp_path_factory.mktemp("adapters")

    def get(kind: str) -> Path:
        own, number = KINDS[kind], list(KINDS).index(kind)
        return root / kind if (root / kind).exists() else make(root / kind, number, **own)

    return get


def looked_into(adapter: Path, other: Path | None = None, base: str | None = PLACE) -> Inspection:
    return inspect(InspectRequest(str(adapter), None if other is None else str(other), base))


def of_module(found: Inspection, name: str = MODULE) -> Module:
    return next(own for own in found.modules if own.module == name)


@pytest.mark.parametrize("kind", KINDS)
def test_norms_and_rows_are_those_of_the_merged_weight(kind: str, made: Made) -> None:
    found, expected = looked_into(made(kind)), changes(made(kind))
    assert {own.module for own in found.modules} == set(expected)
    for own in found.modules:
        W, change = (dense.matrix(each) for each in (base_weights()[f"{own.module}.weight"], expected[own.module]))
        assert own.shape == W.shape
        assert own.frobenius == pytest.approx(np.linalg.norm(change), rel=1e-6)
        assert own.relative_frobenius == pytest.approx(np.linalg.norm(change) / np.linalg.norm(W), rel=1e-6)
        assert own.rows is not None
        assert own.rows.magnitude == pytest.approx(dense.magnitude_change(W, W + change), rel=1e-5)
        assert own.rows.direction == pytest.approx(dense.direction_change(W, W + change), rel=1e-5, abs=1e-12)
    whole = np.sqrt(sum(np.linalg.norm(dense.matrix(own)) ** 2 for own in expected.values()))
    assert found.total.frobenius == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("kind", LOW_RANK)
def test_singular_values_and_subspaces_are_those_of_the_change(kind: str, made: Made) -> None:
    found, expected = looked_into(made(kind)), changes(made(kind))
    for own in found.modules:
        W, change = (dense.matrix(each) for each in (base_weights()[f"{own.module}.weight"], expected[own.module]))
        assert own.low_rank is not None
        assert own.weight is not None
        k = own.low_rank.rank
        sigma = np.linalg.svd(change, compute_uv=False)
        np.testing.assert_allclose(own.low_rank.singular_values[:k], sigma[:k], rtol=1e-5)
        assert sigma[k:].max() < 1e-6 * sigma[0]
        assert own.spectral == pytest.approx(sigma[0], rel=1e-6)
        assert own.relative_spectral == pytest.approx(sigma[0] / np.linalg.norm(W, 2), rel=1e-6)
        assert own.low_rank.effective_rank == pytest.approx(dense.entropy_rank(sigma[:k]), rel=1e-6)
        assert own.low_rank.stable_rank == pytest.approx(dense.stable_rank(change), rel=1e-6)
        assert own.weight.amplification == pytest.approx(dense.amplification(W, change, k), rel=1e-5)
        spaces = zip(dense.spaces(W, k), dense.spaces(change, k), strict=True)
        for phi, both in zip((own.weight.columns, own.weight.rows), spaces, strict=True):
            assert phi == pytest.approx(dense.phi(*both), rel=1e-5)
        assert (own.balance is None) == (kind not in HAS_PAIRS)


def test_rescaled_rows_tell_of_their_part_of_low_rank(made: Made) -> None:
    found, tensors = looked_into(made("dora")), load_file(made("dora") / "adapter_model.safetensors")
    A, B = (dense.matrix(tensors[f"base_model.model.{MODULE}.lora_{name}.weight"]) for name in "AB")
    own = of_module(found)
    assert own.low_rank is not None
    assert own.balance is not None
    sigma = np.linalg.svd(6 / 4 * B @ A, compute_uv=False)[:4]
    np.testing.assert_allclose(own.low_rank.singular_values, sigma, rtol=1e-10)
    assert own.balance.norm_b == pytest.approx(np.linalg.norm(B))
    assert (own.spectral, own.relative_spectral) == (None, None)
    assert any("s B A" in reason for reason in own.missing)
    assert any("s B A" in note for note in found.notes)


def test_scaled_rows_have_no_singular_values_and_say_so(made: Made) -> None:
    found = looked_into(made("ia3"))
    assert {own.layer for own in found.modules} == {"scaledrows", "scaledcolumns"}
    for own in found.modules:
        assert (own.low_rank, own.trained, own.balance, own.weight, own.spectral) == (None,) * 5
        assert any("no singular values" in reason for reason in own.missing)
    assert found.total.effective_rank is None


def test_two_adapters_by_their_dense_changes(made: Made) -> None:
    found = looked_into(made("lora"), made("rslora"))
    expected = [changes(made(kind)) for kind in ("lora", "rslora")]
    assert [own.module for own in found.pairs] == [own.module for own in found.modules]
    for own in found.pairs:
        one, other = (dense.matrix(each[own.module]) for each in expected)
        product = (one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other)
        assert own.cosine == pytest.approx(product, abs=1e-6)
        assert own.columns is not None
        assert own.rows is not None
        ranks = len(own.columns.grid), len(own.columns.grid[0])
        assert ranks == (4, 2 if "v_proj" in own.module else 4)
        spaces = zip(*(dense.spaces(each, rank) for each, rank in zip((one, other), ranks, strict=True)), strict=True)
        for phi, both in zip((own.columns.phi, own.rows.phi), spaces, strict=True):
            assert phi == pytest.approx(dense.phi(*both), abs=1e-6)


def test_an_adapter_is_like_itself(made: Made) -> None:
    found = looked_into(made("dora"), made("dora"))
    assert found.total.cosine == pytest.approx(1.0, abs=1e-12)
    assert (found.total.phi_columns, found.total.phi_rows) == (pytest.approx(1.0), pytest.approx(1.0))


def test_adapters_without_a_common_change_are_refused(made: Made) -> None:
    with pytest.raises(InputError, match="no module in common"):
        looked_into(made("lora"), made("ia3"))


@pytest.mark.parametrize("kind", KINDS)
def test_without_the_base_all_is_told_that_needs_no_weight(kind: str, made: Made, tmp_path: Path) -> None:
    lost = tmp_path / "adapter"
    lost.mkdir()
    for file in made(kind).iterdir():
        (lost / file.name).write_bytes(file.read_bytes())
    config = json.loads((lost / "adapter_config.json").read_text())
    (lost / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": "/nowhere/base"}))
    found, whole = looked_into(lost, base=None), looked_into(made(kind))
    assert found.base is None
    (note,) = [note for note in found.notes if note.startswith("the base's weights are missing")]
    assert "/nowhere/base" in note
    assert "\n" not in note
    known = {own.module: own for own in whole.modules}
    if kind in ("vera", "ia3"):
        assert found.modules == ()
        assert any("cannot be inspected without the base" in note for note in found.notes)
        return
    for own in found.modules:
        before = known[own.module]
        assert (own.low_rank, own.balance, own.trained) == (before.low_rank, before.balance, before.trained)
        assert own.frobenius == (None if kind == "dora" else before.frobenius)
        assert (own.rows, own.weight, own.relative_frobenius) == (None, None, None)
        assert any("the base's weight is missing" in reason for reason in own.missing)
    json.dumps(as_json(found), allow_nan=False)


def test_factors_at_their_start_are_no_change(made: Made, tmp_path: Path) -> None:
    adapter = changed_copy(made("lora"), tmp_path / "start", lambda key, own: own * 0 if "lora_B" in key else own)
    found = looked_into(adapter)
    write(found, tmp_path / "files")
    for own in json.loads((tmp_path / "files" / "inspection.json").read_text())["modules"]:
        assert (own["frobenius"], own["relative_frobenius"], own["spectral"]) == (0.0, 0.0, 0.0)
        assert own["low_rank"]["effective_rank"] is own["low_rank"]["condition"] is own["weight"] is None
        assert (own["balance"]["ratio"], own["rows"]["magnitude"]) == (0.0, 0.0)
        assert own["rows"]["direction"] == pytest.approx(0.0, abs=1e-15)
    assert looked_into(adapter, made("lora")).total.cosine is None


def changed_copy(adapter: Path, place: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    place.mkdir()
    (place / "adapter_config.json").write_bytes((adapter / "adapter_config.json").read_bytes())
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({key: change(key, own) for key, own in tensors.items()}, place / "adapter_model.safetensors")
    return place


def test_an_offset_of_the_base_is_part_of_the_change_and_not_of_what_was_trained(made: Made, tmp_path: Path) -> None:
    """The last rank of each factor is said to be the offset."""
    adapter = changed_copy(made("lora"), tmp_path / "moved", lambda _, own: own)
    names = {own.module: 1 for own in looked_into(adapter).modules}
    (adapter / "reflora.json").write_text(json.dumps({"offset_ranks": names}))
    found, expected = looked_into(adapter), changes(made("lora"))
    tensors = load_file(adapter / "adapter_model.safetensors")
    A, B = (dense.matrix(tensors[f"base_model.model.{MODULE}.lora_{name}.weight"]) for name in "AB")
    own = of_module(found)
    assert own.low_rank is not None
    assert own.trained is not None
    assert own.balance is not None
    assert own.offset_rank == 1
    np.testing.assert_allclose(own.low_rank.frobenius, np.linalg.norm(dense.matrix(expected[MODULE])), rtol=1e-6)
    sigma = np.linalg.svd(6 / 4 * B[:, :3] @ A[:3], compute_uv=False)[:3]
    np.testing.assert_allclose(own.trained.singular_values, sigma, rtol=1e-10)
    assert own.trained.condition == pytest.approx(sigma[0] / sigma[2], rel=1e-8)
    assert own.balance.norm_a == pytest.approx(np.linalg.norm(A[:3]))
    assert any("moved the base" in note for note in found.notes)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_weights_that_are_stored_transposed(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=8)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    W = {name: own.double() for name, own in GPT2LMHeadModel.from_pretrained(tmp_path / "base").state_dict().items()}
    own = {"lora": {}, "dora": {"use_dora": True}, "ia3": {"feedforward_modules": ["c_fc"]}}[kind]
    settings = {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True, "task_type": "CAUSAL_LM", **own}
    made = peft.IA3Config(**settings) if kind == "ia3" else peft.LoraConfig(r=3, lora_alpha=6, **settings)
    model = peft.get_peft_model(GPT2LMHeadModel.from_pretrained(tmp_path / "base"), made)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn(parameter.shape) * 0.05)
    model.save_pretrained(tmp_path / "adapter")
    merged = model.double().merge_and_unload().state_dict()
    found = looked_into(tmp_path / "adapter", base=None)
    assert len(found.modules) == 4
    for module in found.modules:
        before = dense.matrix(W[f"{module.module}.weight"].T)
        change = dense.matrix(merged[f"{module.module}.weight"].T) - before
        assert module.shape == before.shape
        assert module.frobenius == pytest.approx(np.linalg.norm(change), rel=1e-5)
        assert module.rows is not None
        assert module.rows.magnitude == pytest.approx(dense.magnitude_change(before, before + change), rel=1e-4)
        if kind == "lora":
            assert module.weight is not None
            assert module.weight.amplification == pytest.approx(dense.amplification(before, change, 3), rel=1e-4)
    assert [own.name for own in found.kinds] == ["c_attn", "c_fc"]


def test_parameters_trained_in_place(tmp_path: Path) -> None:
    names = ["model.layers.0.mlp.down_proj.weight", "model.norm.weight"]
    moved = {
        name: base_weights()[name].float() + 0.1 * torch.randn_like(base_weights()[name].float()) for name in names
    }
    tmp_path.joinpath("adapter_config.json").write_text(
        json.dumps({"peft_type": "REFLORA_IN_PLACE", "target_modules": [], "trained_parameters": names})
    )
    save_file({f"base_model.model.{name}": own for name, own in moved.items()}, tmp_path / "adapter_model.safetensors")
    found = looked_into(tmp_path)
    for own in found.modules:
        before, after = (
            dense.matrix(each).reshape(-1, each.shape[-1]) for each in (base_weights()[own.module], moved[own.module])
        )
        assert own.frobenius == pytest.approx(np.linalg.norm(after - before), rel=1e-6)
        assert own.rows is not None
        assert own.rows.direction == pytest.approx(dense.direction_change(before, after), rel=1e-5)
        assert (own.low_rank, own.balance) == (None, None)
    alone = looked_into(tmp_path, base=str(PLACE))
    assert [own.name for own in alone.depths] == ["0", "outside"]


def test_an_adapter_that_changes_no_weights_is_refused(tmp_path: Path) -> None:
    made = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    peft.get_peft_model(base(), made).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="virtual tokens are put before every row"):
        looked_into(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda key, own: own[:-1] if key.endswith("lora_B.weight") else own, "do not fit the base"),
        (lambda key, own: own[:-1] if key.endswith("lora_A.weight") else own, "do not fit the module"),
        (lambda _, own: own * float("nan"), "NaN or infinite"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(
    change: Callable[[str, torch.Tensor], torch.Tensor], words: str, made: Made, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=words):
        looked_into(changed_copy(made("lora"), tmp_path / "wrong", change))


def test_files_hold_every_number_and_leave_nothing_of_an_earlier_inspection(made: Made, tmp_path: Path) -> None:
    two = write(looked_into(made("lora"), made("rslora")), tmp_path / "files")
    assert {path.name for path in (tmp_path / "files").iterdir()} == set(two)
    assert {"similarity.png", "similarity.svg", "spectra.png", "magnitude_direction.svg"} <= set(two)
    same = {name: (tmp_path / "files" / name).read_bytes() for name in ("spectra.svg", "change_over_depth.png")}
    lines = (tmp_path / "files" / "inspection.csv").read_text().splitlines()
    assert len(lines) == 1 + len(looked_into(made("lora")).modules)
    assert {"relative_frobenius", "rows.direction", "other.cosine", "other.rows.phi"} <= set(lines[0].split(","))
    found = looked_into(made("lora"))
    one = write(found, tmp_path / "files")
    assert (
        {path.name for path in (tmp_path / "files").iterdir()}
        == set(one)
        == set(two)
        - {
            "similarity.png",
            "similarity.svg",
        }
    )
    stored = json.loads((tmp_path / "files" / "inspection.json").read_text())
    assert stored == json.loads(json.dumps(as_json(found)))
    assert {name: (tmp_path / "files" / name).read_bytes() for name in same} == same
