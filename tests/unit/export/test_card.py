"""The card says what the update rule did, for every rule, and how the model is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from reflora_cli.export.card import rule_lines
from reflora_cli.export.usage import base_lines, peft_lines
from reflora_cli.methods.method import Method
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import UPDATES
from reflora_cli.model.sources import Source, find_source
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.registry import find_task


@pytest.mark.parametrize("update", UPDATES)
def test_every_rule_but_the_plain_one_is_told(update: str) -> None:
    layer = "stella" if UPDATES[update].of_frames else "lora"
    method = Method(name="lora", layer=layer, update=update, refactor=Refactor(warmup_steps=1))
    sections = {"model": {"name": "m"}, "task": {"name": "t"}, "train": {"epochs": 1}}
    lines = rule_lines(Recipe.model_validate({**sections, "method": method.model_dump()}))
    assert len(lines) == (0 if update == "plain" else 1)


@pytest.mark.parametrize("name", ["glue/mnli", "glue/stsb", "commonsense"])
def test_the_card_s_python_loads_the_base(name: str) -> None:
    """The lines are run: a classifier has as many outputs as the task has labels, a language model its own head."""
    task = find_task(name)
    namespace: dict[str, Any] = {}
    exec("\n".join(base_lines(task, find_source("builtin:tiny-llama", None).location)), namespace)
    model = namespace["base"]
    outputs = {"glue/mnli": 3, "glue/stsb": 1, "commonsense": model.config.vocab_size}[name]
    head = model.lm_head if name == "commonsense" else model.score
    assert head.out_features == outputs


@pytest.mark.parametrize("has_tokenizer", [True, False])
def test_the_tokenizer_is_loaded_from_where_it_lies(has_tokenizer: bool) -> None:
    """Beside the adapter, or with the base where an older run has none."""
    source = Source("owner/base", "owner/base", None, is_local=False)
    text = "\n".join(peft_lines(find_task("instruct"), source, (), has_tokenizer=has_tokenizer))
    place = "path/to/this/directory" if has_tokenizer else "owner/base"
    assert f'tokenizer = AutoTokenizer.from_pretrained("{place}")' in text
