"""The orthogonal start: PEFT's own draws to the bit, B A = 0, and which ranks are refused."""

from __future__ import annotations

import peft
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from reflora_cli.adapters.adaptation import adapt
from reflora_cli.adapters.orthogonal import orthogonal_pair
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, batch, injected, make


@pytest.mark.parametrize("rank", [2, 6, 16])
def test_from_one_state_peft_draws_the_same(rank: int) -> None:
    config = peft.LoraConfig(r=rank, target_modules=["0"], init_lora_weights="orthogonal")
    theirs = peft.get_peft_model(nn.Sequential(nn.Linear(40, 24)), config).base_model.model[0]
    torch.manual_seed(5)
    theirs.orthogonal_init("default")
    A, B = orthogonal_pair(rank, 40, 24, torch.Generator().manual_seed(5))
    assert torch.equal(A, theirs.lora_A["default"].weight)
    assert torch.equal(B, theirs.lora_B["default"].weight)


def test_both_factors_have_half_the_rank_and_their_product_is_zero() -> None:
    A, B = (own.double() for own in orthogonal_pair(6, 40, 24, torch.Generator().manual_seed(0)))
    assert (B @ A).abs().max() < 1e-7
    assert [int(torch.linalg.matrix_rank(own, rtol=1e-5)) for own in (A, B)] == [3, 3]


def test_the_base_stays_and_both_factors_have_gradients_at_once() -> None:
    base, model = make("llama"), make("llama")
    adapted = injected(model, Method(name="orthogonal", rank=4), HEADS["llama"], HEADS["llama"])
    inputs, _ = batch()
    logits = model(**inputs).logits
    torch.testing.assert_close(logits, base(**inputs).logits, atol=1e-5, rtol=1e-5)
    logits.square().sum().backward()
    for pair in adapted.pairs:
        assert pair.A.grad is not None
        assert pair.B.grad is not None
        assert pair.A.grad.norm() > 0
        assert pair.B.grad.norm() > 0
    for name, layer in adapted.layers.items():
        assert torch.equal(layer.frozen.weight, base.get_submodule(name).weight)


def test_an_odd_rank_and_a_rule_without_a_warm_up_are_refused() -> None:
    with pytest.raises(
        ValidationError, match=r"start=orthogonal needs a rank that is a multiple of 2, and method\.rank is 5"
    ):
        Method(name="orthogonal", rank=5)
    with pytest.raises(InputError) as caught:
        adapt(make("bert"), "query", rank=5, start="orthogonal")
    assert caught.value.problems[0].expected == "a multiple of 2 for start orthogonal"
    with pytest.raises(ValidationError, match="makes factors of less than full rank"):
        Method(name="orthogonal", update={"kind": "reflora", "warmup_steps": 0})
    with pytest.raises(ValidationError, match=r"method\.update=lora-rite, which acts at once, needs full rank"):
        Method(name="orthogonal", update="lora-rite")
    assert Method(name="orthogonal", update={"kind": "reflora", "warmup_steps": 1}).update.plain_steps == 1
    assert Method(name="orthogonal", rank=5, after="runs/earlier").rank == 5
