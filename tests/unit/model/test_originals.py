"""Weights from which a base was quantized, read again from its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import Dtype, Quantization
from reflora_cli.model.language import load_language_model
from reflora_cli.model.originals import model_name
from reflora_cli.model.precision import DTYPES
from reflora_cli.recipe.sections import ModelSection
from tests.language_models import saved

NAMES: dict[str, tuple[int, ...]] = {"body.LayerNorm.weight": (4,), "body.dense.weight": (3, 4)}


@pytest.mark.parametrize("dtype", [Dtype.FLOAT32, Dtype.BFLOAT16])
@pytest.mark.parametrize("kind", [Quantization.NF4, Quantization.INT8])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_quantized_weight_finds_what_it_was(name: str, kind: Quantization, dtype: Dtype, tmp_path: Path) -> None:
    """`original` compares the codes of what it reads with the loaded ones; here the values are compared too."""
    section = ModelSection(name=str(saved(name, tmp_path)), quantization=kind, dtype=dtype)
    model = load_language_model(section, None, DTYPES[dtype]).model
    stored = load_file(tmp_path / "model.safetensors")
    found = {path: own for path, own in model.named_modules() if isinstance(own, QuantizedWeight)}
    assert len(found) >= 8
    for path, own in found.items():
        W = own.original()
        expected = stored[f"{path}.weight"]
        assert torch.equal(W, expected.T if name == "gpt2" else expected)
        W.zero_()  # it is a copy: the file is mapped, and another reader sees it
        assert own.original().any()


def test_other_files_than_those_that_were_loaded_are_noticed(tmp_path: Path) -> None:
    section = ModelSection(name=str(saved("llama", tmp_path)), quantization=Quantization.NF4)
    model = load_language_model(section, None, torch.float32).model
    own = next(own for own in model.modules() if isinstance(own, QuantizedWeight))
    own.weight.zero_()
    with pytest.raises(InputError, match="weights before their quantization are needed"):
        own.original()


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("body.dense.weight", "body.dense.weight"),
        ("dense.weight", "body.dense.weight"),
        ("LayerNorm.gamma", "body.LayerNorm.weight"),
        ("body.body.dense.weight", "body.dense.weight"),
        ("pooler.weight", None),
    ],
)
def test_names_of_checkpoints_are_the_model_s_but_for_a_prefix_and_gamma(key: str, meant: str | None) -> None:
    assert model_name(key, NAMES, "body") == meant
