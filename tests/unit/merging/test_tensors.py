"""Merged tensors: their sums, their ties, and whether a checkpoint names them as the model does."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from reflora_cli.adapter_io.tensor_files import TensorPlace
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.merging.memory import make_plain
from reflora_cli.merging.tensors import kept_ties, merged_tensors, named_alike
from reflora_cli.methods.method import Method
from tests import language_models
from tests.models import injected


def adapted(name: str, *targets: str, method: str = "lora") -> tuple[Any, Adapted]:
    """A model with adapters that are at work."""
    model = language_models.make(name)
    found = injected(model, Method(name=method, rank=2, targets=targets), [], [], seed=0)
    with torch.no_grad():
        for layer in found.layers.values():
            layer.B.normal_(std=0.1, generator=torch.Generator().manual_seed(1))
    return model, found


def test_a_tie_is_kept_where_no_adapter_changes_it() -> None:
    model, found = adapted("llama-tied", "q_proj")
    names = merged_tensors(model, found, torch.float32).names
    assert set(kept_ties(model, found)) == {"lm_head.weight"}
    assert "lm_head.weight" not in names
    assert "model.embed_tokens.weight" in names
    assert model.config.tie_word_embeddings


def test_an_adapter_on_the_head_ends_the_tie_and_the_config_says_so() -> None:
    model, found = adapted("llama-tied", "q_proj", "lm_head")
    tensors = dict(merged_tensors(model, found, torch.float32))
    assert not model.config.tie_word_embeddings
    head, embedding = tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]
    layer = found.layers["lm_head"]
    torch.testing.assert_close(head.double() - embedding.double(), layer.scale * layer.B.double() @ layer.A.double())


def test_a_weight_that_became_a_parameter_of_its_own_is_tied_no_more() -> None:
    model, found = adapted("llama-tied", "q_proj")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    assert kept_ties(model, found) == {}
    assert not model.config.tie_word_embeddings


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "targets"), [("llama-tied", ("q_proj", "lm_head")), ("gpt2", ("c_attn", "c_proj"))])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_tensors_written_one_at_a_time_are_those_of_the_plain_model(
    name: str, targets: tuple[str, ...], method: str, dtype: torch.dtype
) -> None:
    model, found = adapted(name, *targets, method=method)
    twin = copy.deepcopy(model)
    layers = {path: twin.get_submodule(path) for path in found.layers}
    tensors = merged_tensors(model, found, dtype)
    written = dict(tensors)
    announced = [(own.name, own.dtype, own.shape) for own in tensors.announced()]
    assert announced == [(key, tensor.dtype, tuple(tensor.shape)) for key, tensor in written.items()]
    make_plain(SimpleNamespace(base=SimpleNamespace(model=twin), adapted=Adapted(layers, {}, {})), dtype)
    state = twin.state_dict()
    assert [key for key, tensor in written.items() if not torch.equal(tensor, state[key])] == []
    assert {key for key in state if key not in written} <= {"lm_head.weight"}


NAMES: dict[str, tuple[int, ...]] = {"body.LayerNorm.weight": (4,), "body.dense.weight": (3, 4)}


def place(*shape: int, dtype: torch.dtype = torch.float32) -> TensorPlace:
    return SimpleNamespace(shape=shape, dtype=dtype)  # type: ignore[return-value]


def test_a_checkpoint_names_alike_what_has_all_names_with_their_shapes() -> None:
    whole = {"LayerNorm.gamma": place(4), "dense.weight": place(3, 4), "pooler.weight": place(7)}
    assert named_alike(NAMES, whole, "body")
    assert not named_alike(NAMES, {"dense.weight": place(3, 4)}, "body")
    assert not named_alike(NAMES, {**whole, "dense.weight": place(4, 3)}, "body")
    packed = place(6, 1, dtype=torch.uint8)
    assert named_alike(NAMES, {**whole, "dense.weight": packed}, "body")
