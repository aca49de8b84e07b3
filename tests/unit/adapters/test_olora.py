"""OLoRA's start: orthonormal columns, what is taken out, and that the model computes what it did."""

from __future__ import annotations

import pytest
import torch

from reflora_cli.adapters.olora import leading_pair
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests.models import HEADS, batch, injected, make


@pytest.mark.parametrize("rank", [1, 5, 40])
@pytest.mark.parametrize("shape", [(40, 64), (64, 40), (48, 48)])
def test_the_first_columns_of_w_are_in_the_pair_alone(shape: tuple[int, int], rank: int) -> None:
    """Gram-Schmidt in float64: B spans the first columns of W, and R is triangular, so W - B A is zero there."""
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    A, B = (own.double() for own in leading_pair(W, rank))
    assert (A.shape, B.shape) == ((rank, shape[1]), (shape[0], rank))
    torch.testing.assert_close(B.T @ B, torch.eye(rank, dtype=torch.float64), atol=1e-6, rtol=0)
    rest = W.double() - B @ A
    assert rest[:, :rank].abs().max() < 1e-5
    assert torch.allclose(B.T @ rest, torch.zeros(rank, shape[1], dtype=torch.float64), atol=1e-5)
    assert torch.equal(A.tril(-1), torch.zeros_like(A))


@pytest.mark.parametrize("alpha", [3.0, 12.0])
def test_the_model_computes_what_it_did_whatever_s_is(alpha: float) -> None:
    base, model = make("llama"), make("llama")
    adapted = injected(model, Method(name="olora", rank=3, alpha=alpha), HEADS["llama"], HEADS["llama"])
    inputs, _ = batch()
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, base(**inputs).logits, atol=1e-4, rtol=1e-5)
    assert all(pair.B.any() for pair in adapted.pairs)


def test_a_rank_beyond_the_weight_is_refused() -> None:
    with pytest.raises(InputError, match="the method needs A and B of full rank"):
        injected(make("bert"), Method(name="olora", rank=17), HEADS["bert"], HEADS["bert"])
