"""A last block that leaves out what no head reads: losses and gradients of the whole block, or a refusal."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.model.base import Base
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.objectives.trimmed import trim_last_block
from tests.classifiers import base, objective, rows_of
from tests.models import injected

TRIMMED = ("bert", "roberta", "camembert", "electra", "ernie", "deberta", "deberta-v2", "megatron-bert")
REFUSED = ("albert", "distilbert", "modernbert", "llama", "gpt2")


def adapt(own: Base, layer: str) -> None:
    """Put adapters in place that change something."""
    head = list(own.head)
    adapted = injected(own.model, Method(name=layer), head, head, seed=0)
    for pair in adapted.pairs:
        pair.B.data.normal_(std=0.3)


def loss_and_gradients(found: SequenceObjective) -> dict[str, Tensor]:
    loss = found.loss_module.train()(**found.arguments(rows_of(found.base)))
    loss.backward()
    own = {name: p.grad for name, p in found.base.model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach(), **own}


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize(("name", "layer"), [*((name, "lora") for name in TRIMMED), ("bert", "dora"), ("bert", "full")])
def test_loss_and_gradients_are_those_of_the_whole_block(name: str, layer: str, recomputed: bool) -> None:
    own = base(name)
    adapt(own, layer)
    whole = objective(copy.deepcopy(own))
    trimmed = objective(own)
    trim_last_block(trimmed)
    if recomputed:
        own.recompute_activations()
    expected, got = loss_and_gradients(whole), loss_and_gradients(trimmed)
    assert len(expected) > 8
    assert expected.keys() == got.keys()
    for key, wanted in expected.items():
        torch.testing.assert_close(got[key], wanted, atol=1e-6, rtol=1e-4, msg=key)


def widths(model: Any) -> set[int]:
    """The numbers of places that the last feed-forward layer computes in passes with the model in its mode."""
    seen: set[int] = set()
    last = [module for module in model.modules() if type(module).__name__.endswith("Intermediate")][-1]
    handle = last.register_forward_hook(lambda _, given, __: seen.add(given[0].shape[1]))
    own = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 8]])
    model(input_ids=own, attention_mask=torch.ones_like(own))
    handle.remove()
    return seen


def test_one_place_is_computed_in_training_and_all_in_scoring() -> None:
    found = objective(base("bert"))
    model, rows = found.base.model, rows_of(found.base)
    before = found.predict(rows, 5)
    assert widths(model.train()) == {4}
    trim_last_block(found)
    assert widths(model.train()) == {1}
    assert widths(model.eval()) == {4}
    assert found.predict(rows, 5).equal(before)


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_of_another_kind_is_refused_and_left_as_it_was(name: str) -> None:
    found = objective(base(name))
    with pytest.raises(InputError, match="trim_last_block"):
        trim_last_block(found)
    assert not any(module._forward_pre_hooks for module in found.base.model.modules())


def test_a_head_that_reads_every_place_is_refused() -> None:
    """A pooler that takes the mean of all places, put into a model that could be trimmed."""
    own = base("bert")

    class Mean(nn.Module):
        def forward(self, hidden: Tensor) -> Tensor:
            return hidden.mean(dim=1)

    own.model.bert.pooler = Mean()
    with pytest.raises(InputError, match="all positions"):
        trim_last_block(objective(own))
