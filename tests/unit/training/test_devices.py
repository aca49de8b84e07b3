"""What of a run depends on its processes is said."""

from __future__ import annotations

from typing import Any

import transformers as t

from reflora_cli.methods.method import Method
from reflora_cli.training.devices import draws_dropout, dropout_note
from tests.models import injected, make


def test_dropout_is_found_where_it_acts() -> None:
    """Also in attention, where it is a number and no module, and in adapters."""
    model = make("bert")
    assert not draws_dropout(model)
    injected(model, Method(name="lora", dropout=0.1), [], [], seed=0)
    assert draws_dropout(model)
    assert dropout_note(model, 1, packing=False) == ""
    assert "the number of processes and train.packing" in dropout_note(model, 2, packing=True)
    assert dropout_note(make("bert"), 2, packing=True) == ""
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60}
    assert not draws_dropout(t.LlamaModel(t.LlamaConfig(**sizes, intermediate_size=16)))
    assert draws_dropout(t.LlamaModel(t.LlamaConfig(**sizes, intermediate_size=16, attention_dropout=0.1)))
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0}
    assert draws_dropout(t.GPT2Model(t.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, **quiet)))
