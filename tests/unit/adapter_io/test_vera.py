"""VeRA's files: PEFT's are read, ours are PEFT's, and whatever does not fit is named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import (
    CONFIG,
    WEIGHTS,
    adapter_tensors,
    read_adapter,
    write_adapter,
    write_adapter_config,
)
from reflora_cli.adapter_io.formats import adapter_config
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapters.vera import VeRALinear
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, MODELS, batch, injected, make

QUERY = "base_model.model.bert.encoder.layer.0.attention.self.query"


def randomized(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(**batch(seed=1)[0]).logits


def by_peft(base: nn.Module, name: str, directory: Path, **settings: Any) -> Tensor:
    """Logits of PEFT's adapter, which is written to the directory."""
    targets = [path.rpartition(".")[2] for path in injected(copy.deepcopy(base), Method(name="vera"), [], []).layers]
    config = peft.VeraConfig(
        task_type="SEQ_CLS",
        r=9,
        target_modules=sorted(set(targets) - {*HEADS[name], "out_proj"}),
        modules_to_save=list(HEADS[name]),
        projection_prng_key=11,
        fan_in_fan_out=name == "gpt2",
        **settings,
    )
    model = peft.get_peft_model(copy.deepcopy(base), config)
    randomized(model)
    model.save_pretrained(directory)
    return logits(model)


def read_by_us(base: nn.Module, name: str, directory: Path) -> nn.Module:
    model = copy.deepcopy(base)
    load_adapter(model, read_adapter(directory), HEADS[name])
    return model


@pytest.mark.filterwarnings("ignore:Specified to not")
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("name", list(MODELS))
def test_peft_s_adapters_compute_the_same_here(name: str, kept: bool, tmp_path: Path) -> None:
    """Those without projections too: they are drawn as PEFT draws them."""
    base = make(name)
    theirs = by_peft(base, name, tmp_path, save_projection=kept)
    assert ("base_model.vera_A" in load_file(tmp_path / WEIGHTS)) is kept
    model = read_by_us(base, name, tmp_path)
    torch.testing.assert_close(logits(model), theirs, atol=1e-5, rtol=1e-5)
    assert (logits(base) - theirs).abs().max() > 1e-2
    layers = [module for module in model.modules() if isinstance(module, VeRALinear)]
    assert len(layers) > 3
    assert len({(own.A.untyped_storage().data_ptr(), own.B.untyped_storage().data_ptr()) for own in layers}) == 1


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Our adapter on BERT."""
    model = make("bert")
    method = Method(name="vera", rank=9, layer={"kind": "vera", "projection_seed": 11})
    adapted = injected(model, method, HEADS["bert"], HEADS["bert"])
    randomized(model)
    write_adapter(tmp_path, adapter_tensors(model, adapted, HEADS["bert"]))
    config = adapter_config(model, adapted, method, HEADS["bert"], NamedBase("base", None), "SEQ_CLS")
    write_adapter_config(tmp_path, config, {})
    return tmp_path


def test_a_file_holds_the_projections_once(written: Path) -> None:
    keys = [key for key in load_file(written / WEIGHTS) if "vera_A" in key or "vera_B" in key]
    assert sorted(keys) == ["base_model.vera_A", "base_model.vera_B"]
    config = json.loads((written / CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["projection_prng_key"]) == ("VERA", 9, 11)
    assert config["save_projection"] is True
    assert not {"lora_alpha", "use_dora"} & config.keys()


def drop(*keys: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for key in keys:
            del tensors[key]

    return change


def put(key: str, make_it: Callable[[Tensor], Tensor], of: str = "") -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[key] = make_it(tensors[of or key]).clone()

    return change


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "no projection": (drop("base_model.vera_B"), r"missing tensors in the adapter[\s\S]*base_model\.vera_B"),
    "no vector": (drop(f"{QUERY}.vera_lambda_b"), r"tensors do not fit[\s\S]*self\.query"),
    "no module": (drop(f"{QUERY}.vera_lambda_b", f"{QUERY}.vera_lambda_d"), "missing factors of modules"),
    "another module": (
        put("base_model.model.bert.no.vera_lambda_d", Tensor.clone, f"{QUERY}.vera_lambda_d"),
        "bert.no",
    ),
    "a pair": (put(f"{QUERY}.lora_A.weight", Tensor.clone, "base_model.vera_A"), "unexpected tensors"),
    "a third projection": (put("base_model.vera_C", Tensor.clone, "base_model.vera_A"), "unexpected tensors"),
    "an adapter's name": (
        put("base_model.vera_A.default", Tensor.clone, "base_model.vera_A"),
        "unexpected tensors",
    ),
    "another rank of d": (put(f"{QUERY}.vera_lambda_d", lambda own: own[:-1]), "tensors do not fit"),
    "another length of b": (put(f"{QUERY}.vera_lambda_b", lambda own: own[:-1]), "tensors do not fit"),
    "another rank of A": (put("base_model.vera_A", lambda own: own[:-1]), "projections do not fit"),
    "another rank of B": (put("base_model.vera_B", lambda own: own[:, :-1]), "projections do not fit"),
    "a narrow A": (put("base_model.vera_A", lambda own: own[:, :-1]), "projections do not fit"),
    "a short B": (put("base_model.vera_B", lambda own: own[:-1]), "projections do not fit"),
    "a vector for A": (put("base_model.vera_A", lambda own: own[0]), "projections do not fit"),
    "values beyond numbers": (put(f"{QUERY}.vera_lambda_b", lambda own: own * 1e25), r"values overflow[\s\S]*query"),
    "large projections": (put("base_model.vera_A", lambda own: own * 1e25), "values overflow"),
    "NaN": (put("base_model.vera_A", lambda own: own * torch.nan), r"NaN or infinite[\s\S]*vera_A"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_tensors_that_do_not_fit_are_named(case: str, written: Path) -> None:
    read_by_us(make("bert"), "bert", written)
    tensors = load_file(written / WEIGHTS)
    change, expected = CHANGES[case]
    change(tensors)
    save_file(tensors, written / WEIGHTS)
    with pytest.raises(InputError, match=expected):
        read_by_us(make("bert"), "bert", written)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "projections that are to be left out": ({"save_projection": False}, "unexpected tensors"),
    "biases": ({"bias": "vera_only"}, "bias = 'vera_only'"),
    "some layers": ({"layers_to_transform": [0]}, "layers_to_transform"),
    "no rank": ({"r": 0}, "a whole number, at least 1"),
    "no number": ({"d_initial": "small"}, "between -1000 and 1000"),
    "no seed": ({"projection_prng_key": -1}, "a whole number from 0"),
    "all dropped": ({"vera_dropout": 1.0}, "below 1"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_that_are_not_supported_are_named(case: str, written: Path) -> None:
    changes, expected = SETTINGS[case]
    config = json.loads((written / CONFIG).read_text())
    (written / CONFIG).write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=expected):
        read_by_us(make("bert"), "bert", written)


def test_projections_may_be_larger_than_the_modules_need(written: Path) -> None:
    """PEFT counts modules that it saves whole among the largest."""
    expected = logits(read_by_us(make("bert"), "bert", written))
    tensors = load_file(written / WEIGHTS)
    A, B = tensors["base_model.vera_A"], tensors["base_model.vera_B"]
    tensors["base_model.vera_A"] = torch.cat([A, torch.ones(9, 5)], dim=1)
    tensors["base_model.vera_B"] = torch.cat([B, torch.ones(4, 9)])
    save_file(tensors, written / WEIGHTS)
    torch.testing.assert_close(logits(read_by_us(make("bert"), "bert", written)), expected, atol=1e-6, rtol=1e-6)
