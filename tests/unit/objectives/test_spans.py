"""Rows of which several parts are learned: the loss of exactly these tokens, shown as they are, and answered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reflora_cli.data.encode_chats import encode_chats
from reflora_cli.data.encode_prompts import PromptRow, collate_prompts
from reflora_cli.data.pack import pack_prompts
from reflora_cli.model.base import Base
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.language import LanguageLoss, LanguageObjective
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.tasks import task_of
from reflora_cli.tasks.chat import conversation_example
from reflora_cli.tasks.chat_templates import TEMPLATES
from reflora_cli.tasks.examples import PromptExample
from tests.language_models import make
from tests.unit.recipe_texts import GOOD, load, put

CPU = Compute(torch.device("cpu"), torch.float32)
ROWS = [
    PromptRow(np.arange(5, 29, dtype=np.int32), ((2, 5), (9, 10), (20, 24))),
    PromptRow(np.arange(40, 52, dtype=np.int32), ((1, 2), (7, 9))),
    PromptRow(np.arange(60, 64, dtype=np.int32), ((3, 4),)),
]


def reference(model: torch.nn.Module, row: PromptRow) -> float:
    """The summed loss of a row's spans, token by token, from whole logits in double precision."""
    ids = torch.tensor(row.input_ids.astype(np.int64))
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
    return -sum(float(logits[place - 1, ids[place]]) for begin, end in row.spans for place in range(begin, end))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma2"])
def test_the_loss_is_that_of_the_spans_padded_and_packed(name: str) -> None:
    model = make(name)
    model.eval()
    expected = sum(reference(model, row) for row in ROWS)
    for together in (collate_prompts, pack_prompts):
        loss = LanguageLoss(model)(**together(ROWS, 0))
        assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert sum(row.weight for row in ROWS) == 12


@pytest.fixture
def objective(tmp_path: Path) -> LanguageObjective:
    settings = ("task.name=chat", "task.kind=chat", "task.template=plain", "task.data=none", "eval.samples=2")
    recipe = load(put(tmp_path, GOOD), *settings, "model.name=builtin:tiny-llama", "eval.max_new_tokens=12")
    kind = kind_of(task_of(recipe.task))
    base = kind.load_base(recipe.model, None, torch.float32, seed=0)
    found = kind.make_objective(recipe, base, CPU)
    assert isinstance(found, LanguageObjective)
    return found


def test_what_is_shown_of_a_row_is_its_text_with_what_is_learned(objective: LanguageObjective) -> None:
    messages = [{"role": role, "content": text} for role, text in (
        ("user", "What is it?"), ("assistant", "It is red."), ("user", "Thanks."), ("assistant", "Good."))]  # fmt: skip
    tokenizer = objective.base.tokenizer
    (row,) = encode_chats(tokenizer, [conversation_example(messages)], 99, train_on_prompt=False).rows
    pieces = objective.shown(row)
    assert "".join(text for text, _ in pieces) == tokenizer.decode(row.input_ids)
    assert [text.strip() for text, is_learned in pieces if is_learned] == ["It is red.<eos>", "Good.<eos>"]
    assert [is_learned for _, is_learned in pieces] == [False, True, False, True, False]


def test_samples_are_answers_of_plain_greedy_search(objective: LanguageObjective) -> None:
    """The model is left in the mode in which it was."""
    base: Base = objective.base
    texts = ["A cup is", "The box that was in the kitchen is"]
    asked = [PromptExample(text, " red", text) for text in texts]
    base.model.train()
    found = objective.samples(Split("validation", [], asked=asked))
    assert base.model.training
    base.model.eval()
    for own, sample in zip(asked, found, strict=True):
        ids = torch.tensor([base.tokenizer(own.prompt)["input_ids"]])
        written = base.model.generate(input_ids=ids, do_sample=False, max_new_tokens=12)[0, ids.shape[1] :]
        assert sample.answer == str(base.tokenizer.decode(written, skip_special_tokens=True)).strip()
        assert (sample.prompt, sample.expected) == (own.prompt, "red")
        assert sample.line().startswith(f"{own.prompt} -> {sample.answer}")
    assert objective.samples(Split("validation", [])) == []


def test_a_sample_ends_with_the_turn(objective: LanguageObjective) -> None:
    """Any token may end a turn: here the second that the model writes."""
    writer = objective.writer
    assert writer is not None
    ids = objective.base.tokenizer("A cup is")["input_ids"]
    objective.base.model.eval()
    whole = objective.base.model.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=12)
    second = int(whole[0, len(ids) + 1])
    (written,) = writer.answers([ids], [second])
    expected = objective.base.tokenizer.decode(whole[0, len(ids) : len(ids) + 2], skip_special_tokens=True)
    assert written.text == expected


def test_the_end_of_a_turn_is_known_to_the_search(
    objective: LanguageObjective, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[list[int]] = []

    def write(prompts: list[list[int]], own: list[int]) -> list[str]:
        ends.append(own)
        return ["red"] * len(prompts)

    assert objective.writer is not None
    monkeypatch.setattr(objective.writer, "write", write)
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": "Red."}]
    (sample,) = objective.samples(Split("validation", [], asked=[conversation_example(messages)]))
    assert (sample.answer, sample.expected) == ("red", "Red.")
    assert ends == [[objective.base.tokenizer.eos_token_id]]
    assert objective.base.tokenizer.chat_template == TEMPLATES["plain"]
