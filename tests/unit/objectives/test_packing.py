"""Packed rows: every row once, nothing of another row seen, the loss and gradients of padded rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as t
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from reflora_cli.data.encode_prompts import collate_prompts
from reflora_cli.data.pack import first_fit, pack_prompts
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.causal import check_packing
from reflora_cli.objectives.language import LanguageLoss
from tests.language_models import MODELS, base, make, prompt_row
from tests.models import injected

ROWS = [
    prompt_row(range(5, 5 + length), supervised) for length, supervised in ((24, 3), (9, 1), (8, 7), (5, 2), (3, 1))
]
CPU = Compute(torch.device("cpu"), torch.float32)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
@settings(deadline=None, derandomize=True)
def test_every_row_is_in_one_sequence_none_longer_than_the_longest_row(lengths: list[int]) -> None:
    sequences = first_fit(lengths)
    assert sorted(index for sequence in sequences for index in sequence) == list(range(len(lengths)))
    filled = [sum(lengths[index] for index in sequence) for sequence in sequences]
    assert max(filled) == max(lengths)
    assert not [1 for n, one in enumerate(filled) for other in filled[n + 1 :] if one + other <= max(lengths)]


@given(st.lists(st.tuples(st.integers(2, 20), st.integers(1, 19)), min_size=1, max_size=12))
@settings(deadline=None, derandomize=True)
def test_the_same_tokens_are_supervised(shapes: list[tuple[int, int]]) -> None:
    rows = [prompt_row(range(10 * n, 10 * n + length), min(s, length - 1)) for n, (length, s) in enumerate(shapes)]
    packed, padded = pack_prompts(rows, 0), collate_prompts(rows, 0)
    for name, tensors in (("packed", packed), ("padded", padded)):
        before = tensors["input_ids"].flatten()[tensors["supervised"]]
        pairs = sorted(zip(before.tolist(), tensors["targets"].tolist(), strict=True))
        expected = sorted(
            (ids[i - 1], ids[i])
            for row in rows
            for ids in [row.input_ids.tolist()]
            for i in range(row.spans[0][0], len(ids))
        )
        assert pairs == expected, name
    assert packed["input_ids"].numel() <= padded["input_ids"].numel()


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_padded_rows(name: str) -> None:
    """Sliding windows included: a window must not reach into another row."""
    model = make(name)
    check_packing(base(name), CPU)
    found = []
    for batch in (collate_prompts(ROWS, 0), pack_prompts(ROWS, 0)):
        model.zero_grad()
        loss = LanguageLoss(model)(**batch)
        loss.backward()
        found.append(
            (loss.detach(), {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
        )
    torch.testing.assert_close(found[1][0], found[0][0], atol=1e-4, rtol=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][key], gradient, atol=1e-4, rtol=1e-4, msg=key)


SIZES: dict[str, Any] = {"vocab_size": 1500, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL: dict[str, Any] = {**SIZES, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                         "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip
NO_DROPOUT: dict[str, Any] = {**SIZES, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.0,
                              "embd_pdrop": 0.0, "attn_pdrop": 0.0}  # fmt: skip
TRAINED: dict[str, Callable[[], PreTrainedModel]] = {
    "gpt2": lambda: t.GPT2LMHeadModel(t.GPT2Config(**NO_DROPOUT)),
    "gpt-bigcode": lambda: t.GPTBigCodeForCausalLM(t.GPTBigCodeConfig(**NO_DROPOUT)),
    "granite": lambda: t.GraniteForCausalLM(t.GraniteConfig(**SMALL, logits_scaling=8.0, residual_multiplier=0.22)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**SMALL)),
}


@pytest.mark.parametrize("name", TRAINED)
def test_twenty_steps_are_those_of_padded_rows(name: str) -> None:
    """In float64: Adam, which divides by a gradient's size, makes much of the rounding of small ones in float32."""
    found = []
    for together in (collate_prompts, pack_prompts):
        torch.manual_seed(0)
        model = TRAINED[name]().double().train()
        adapted = injected(model, Method(name="lora", rank=2), [], [], seed=0)
        factors = list(adapted.parameters.values())
        optimizer = torch.optim.AdamW(factors, lr=1e-2)
        for step in range(20):
            optimizer.zero_grad()
            loss = LanguageLoss(model)(**together(ROWS[step % 2 :], 0))
            loss.backward()
            optimizer.step()
        found.append((float(loss.detach()), torch.cat([factor.detach().flatten() for factor in factors])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4)
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-6, rtol=0)


def test_a_model_without_positions_is_refused() -> None:
    """Bloom counts distances along the sequence, whatever positions it is told."""
    with pytest.raises(InputError, match=r"train\.packing"):
        check_packing(base("bloom"), CPU)
