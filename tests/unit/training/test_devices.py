"""What of a run depends on its processes and its device is said."""

from __future__ import annotations

from typing import Any

import pytest
import transformers as t

from reflora_cli.methods.method import Method
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.devices import draws_dropout, dropout_note, idle_notes
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


@pytest.mark.parametrize(("section", "key", "value"), [
    ("train", "offload_activations", True), ("model", "streaming", "host"),
])  # fmt: skip
def test_what_saves_only_a_gpus_memory_is_said_to_save_nothing_on_a_cpu(section: str, key: str, value: object) -> None:
    own = recipe({section: {key: value}})
    (said,) = idle_notes(own, "cpu")
    assert f"{section}.{key}" in said
    assert "saves nothing on a CPU" in said
    assert idle_notes(own, "cuda") == []
    assert idle_notes(recipe({"model": {"streaming": "disk"}}), "cpu") == []


def recipe(settings: dict[str, dict[str, Any]]) -> Recipe:
    sections: dict[str, dict[str, Any]] = {"model": {"name": "m"}, "task": {"name": "t"}, "train": {"steps": 5}}
    return Recipe.model_validate({name: {**own, **settings.get(name, {})} for name, own in sections.items()})
