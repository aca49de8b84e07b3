"""Files of parameters that were trained in place: exact, strict, and nothing that PEFT takes for its own."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

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
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.architectures import DECODERS
from tests.models import injected
from tests.random_models import language_model

EMBEDDING = "base_model.model.model.embed_tokens.weight"


def base(dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    return language_model(DECODERS["llama"], vocab_size=60, tie_word_embeddings=True).to(dtype).eval()


def written(directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A model, changed everywhere, whose files are in the directory."""
    model, method = base(dtype), Method(name="full")
    adapted = injected(model, method, [], [])
    with torch.no_grad():
        for parameter in adapted.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    write_adapter(directory, adapter_tensors(model, adapted, []))
    config = adapter_config(model, adapted, method, [], NamedBase("base", None), "CAUSAL_LM")
    write_adapter_config(directory, config, {})
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tied_model_comes_back_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    model, fresh = written(tmp_path, dtype), base(dtype)
    stored = load_file(tmp_path / WEIGHTS)
    assert EMBEDDING in stored
    assert not [key for key in stored if "lm_head" in key]
    adapted = load_adapter(fresh, read_adapter(tmp_path), [])
    assert adapted.layers == {}
    assert f"base_model.model.{next(iter(adapted.in_place))}" == EMBEDDING
    assert fresh.lm_head.weight is fresh.model.embed_tokens.weight
    own = model.state_dict()
    assert all(torch.equal(tensor, own[name]) for name, tensor in fresh.state_dict().items())


def test_peft_does_not_read_it(tmp_path: Path) -> None:
    written(tmp_path)
    with pytest.raises((KeyError, ValueError, TypeError)):
        peft.PeftModel.from_pretrained(base(), tmp_path)


def changed(tensors: dict[str, torch.Tensor], how: str) -> None:
    """Spoil an adapter's tensors."""
    match how:
        case "missing":
            del tensors[EMBEDDING]
        case "unexpected":
            tensors["base_model.model.model.norm.bias"] = torch.zeros(16)
        case "misshapen":
            tensors[EMBEDDING] = tensors[EMBEDDING][:-1].clone()
        case "infinite":
            tensors[EMBEDDING][0, 0] = float("inf")


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("missing", "missing parameters.*embed_tokens"),
        ("unexpected", "unexpected tensors.*norm.bias"),
        ("misshapen", "do not fit the module.*embed_tokens"),
        ("infinite", "NaN or infinite.*embed_tokens"),
    ],
)
def test_every_wrong_tensor_is_an_error(how: str, words: str, tmp_path: Path) -> None:
    written(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    changed(tensors, how)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=f"(?s){words}"):
        load_adapter(base(), read_adapter(tmp_path), [])


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("trained_parameters", ["nowhere.weight"], "unexpected tensors"),
        ("trained_parameters", "all", "trained_parameters is not"),
        ("target_modules", ["q_proj"], "target_modules is not"),
    ],
)
def test_a_config_without_sense_is_refused(key: str, value: object, words: str, tmp_path: Path) -> None:
    written(tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, key: value}))
    with pytest.raises(InputError, match=words):
        load_adapter(base(), read_adapter(tmp_path), [])


def test_a_parameter_of_another_base_is_refused(tmp_path: Path) -> None:
    written(tmp_path)
    other = copy.deepcopy(base())
    del other.model.layers[1]
    with pytest.raises(InputError, match=r"(?s)parameters that the base does not have.*layers\.1"):
        load_adapter(other, read_adapter(tmp_path), [])
