"""A model is tried once for each search of a recipe, by whatever scorer and writer share it."""

from __future__ import annotations

import pytest
import torch

from reflora_cli.methods.settings import EvalProtocol
from reflora_cli.model.language import load_language_model
from reflora_cli.model.precision import Compute
from reflora_cli.objectives import generation
from reflora_cli.objectives.choices import Choices
from reflora_cli.objectives.references import References
from reflora_cli.objectives.writer import writer_of, written_by
from reflora_cli.recipe.sections import EvalSection, ModelSection

CPU = Compute(torch.device("cpu"), torch.float32)
SECTION = EvalSection(num_beams=2, max_new_tokens=5, length_penalty=0.8, no_repeat_ngram=3)


def test_a_scorer_that_writes_is_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    base = load_language_model(ModelSection(name="builtin:tiny-llama"), None, torch.float32)
    search, choices = written_by(SECTION, base, CPU), Choices(base, CPU)
    tried: list[object] = []
    pick_padding = generation.pick_padding

    def counted(*arguments: object) -> object:
        tried.append(arguments)
        return pick_padding(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(generation, "pick_padding", counted)
    assert writer_of(search, SECTION, base, CPU) is search
    assert writer_of(References(search), SECTION, base, CPU) is search
    assert not tried
    by_choice = SECTION.model_copy(update={"protocol": EvalProtocol.CHOICES})
    assert writer_of(choices, by_choice, base, CPU).settings() == search.settings()
    assert len(tried) == 1
    expected = {"num_beams": 2, "max_new_tokens": 5, "length_penalty": 0.8, "no_repeat_ngram": 3}
    assert search.settings() == {"protocol": "llm-adapters", **expected}
