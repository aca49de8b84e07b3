"""Log-likelihoods of candidates: as one by one without a cache, whatever the batch, and as lm-evaluation-harness."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reflora_cli.data.encode_prompts import token_ids
from reflora_cli.data.load import load_prompts
from reflora_cli.model.base import Base
from reflora_cli.model.language import load_language_model
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.choices import Choices, branches_of
from reflora_cli.objectives.reading import Branches
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.registry import find_task
from tests.language_models import MODELS, base

CPU = Compute(torch.device("cpu"), torch.float32)
CANDIDATES = (" a small cup", " a small box", " the lamp of glass in the kitchen", " a small cup of wood", " no")


def example(prompt: str, candidates: tuple[str, ...] = CANDIDATES) -> PromptExample:
    return PromptExample(prompt, candidates[0], prompt, candidates, tuple(map(str.strip, candidates)), "no")


EXAMPLES = [
    example("Question: What is a cup? Answer:"),
    example("Who?"),
    example("Question: Where is the long wooden box that people need for the kitchen kept?\n", (" in", " in the hall")),
    example("the correct answer follows", (" answer1", " answer2")),
]


INSTRUCTION = "A cup is small and a box is large. Choose the right answer to the question about the kitchen: "
ALIKE = [
    example(INSTRUCTION + "Who? Answer:"),
    example(INSTRUCTION + "What is the small wooden cup that stands there for? Answer:"),
    example(INSTRUCTION + "Where is it? Answer:", (" in", " in the hall")),
]
"""Rows of a task, which begin alike: longer than the window of the models that have one."""


def one_by_one(own: Base, prompt: str, candidate: str) -> float:
    """The plain sum over the candidate's tokens, without batch, padding or cache."""
    context = token_ids(own.tokenizer, [prompt.rstrip()])[0]
    whole = token_ids(own.tokenizer, [prompt + candidate])[0]
    begin = len(context)
    assert whole[:begin] == context
    model: Any = own.model
    with torch.no_grad():
        logs = model(torch.tensor([whole])).logits.log_softmax(-1)[0]
    return float(sum(logs[place - 1, whole[place]] for place in range(begin, len(whole))))


@pytest.mark.parametrize("rows", [EXAMPLES, ALIKE], ids=["different", "alike"])
@pytest.mark.parametrize("name", [*MODELS, "mpt", "mamba", "rwkv"])
def test_sums_are_those_of_each_candidate_alone(name: str, rows: list[PromptExample]) -> None:
    """Candidates with common beginnings, one that another begins with, several lengths in one batch."""
    own = base(name)
    own.model.eval()
    scorer = Choices(own, CPU)
    predictions = scorer.predict(find("builtin/questions"), rows)
    for row, prediction in zip(rows, predictions, strict=True):
        expected = [one_by_one(own, row.prompt, candidate) for candidate in row.candidates]
        assert prediction.scores is not None
        assert list(prediction.scores.values()) == pytest.approx(expected, abs=2e-4)
        best = max(range(len(expected)), key=expected.__getitem__)
        assert prediction.parsed == row.labels[best]
        by_character = [value / len(c.strip()) for value, c in zip(expected, row.candidates, strict=True)]
        assert prediction.by_character == row.labels[max(range(len(expected)), key=by_character.__getitem__)]
        alone = scorer.predict(find("builtin/questions"), [row])[0]
        assert alone.parsed == prediction.parsed
        assert alone.scores == pytest.approx(prediction.scores, abs=1e-4)


def find(name: str) -> PromptTask:
    task = find_task(name)
    assert isinstance(task, PromptTask)
    return task


tokens = st.lists(st.integers(3, 6), min_size=1, max_size=6)


@settings(max_examples=200)
@given(context=tokens, tails=st.lists(tokens, min_size=1, max_size=4))
def test_every_candidate_is_its_stem_and_its_tail(context: list[int], tails: list[list[int]]) -> None:
    texts = [[*context, *tail] for tail in tails]
    branches = branches_of(context, texts, limit=100)
    assert [[*branches.stem, *tail] for tail in branches.tails] == texts
    assert all(branches.tails)
    assert len(branches.stem) - branches.shared >= len(context) or branches.shared == 0
    assert not branches.cut


def test_a_text_too_long_for_the_model_loses_its_beginning() -> None:
    branches = branches_of([1, 2, 3, 4], [[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 7]], limit=3)
    assert branches == Branches(stem=[3, 4], shared=0, tails=[[5, 6], [7]], cut=True)


def test_what_all_rows_begin_with_goes_through_the_model_once() -> None:
    own = base("llama")
    scorer = Choices(own, CPU)
    seen: list[tuple[int, ...]] = []
    own.model.base_model.register_forward_hook(
        lambda _, __, output: seen.append(tuple(output.last_hidden_state.shape[:2]))
    )
    scorer.predict(find("builtin/questions"), ALIKE)
    (alone, beginning), (rows, rest) = seen
    assert (alone, rows) == (1, 3)
    assert beginning > 16
    longest = max(len(token_ids(own.tokenizer, [row.prompt])[0]) for row in ALIKE)
    assert beginning + rest <= longest + sum(len(candidate) for candidate in CANDIDATES)


def test_the_prompt_goes_through_the_model_once() -> None:
    """Candidates of one token need nothing beside it, and longer ones stand beside each other in the same pass."""
    own = base("llama")
    scorer = Choices(own, CPU)
    passes: list[int] = []
    own.model.base_model.register_forward_hook(lambda _, __, output: passes.append(output.last_hidden_state.shape[1]))
    scorer.predict(find("builtin/questions"), [example("Who?", (" a", " b", " c"))])
    assert len(passes) == 1
    scorer.predict(find("builtin/questions"), [EXAMPLES[0]])
    assert len(passes) == 2
    prompt = len(token_ids(own.tokenizer, [EXAMPLES[0].prompt])[0])
    assert prompt < passes[1] < prompt + sum(map(len, CANDIDATES))


@pytest.mark.parametrize("model", ["stories260K", "tiny-llama"])
def test_log_likelihoods_are_those_of_lm_evaluation_harness(model: str, shared_data: Path) -> None:
    """200 (prompt, candidate) pairs of real rows, by the harness's own class on the same model."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    name = str(shared_data / "weights" / model) if model == "stories260K" else f"builtin:{model}"
    own = load_language_model(ModelSection(name=name), None, torch.float32)
    own.model.eval()
    limit = own.model.config.max_position_embeddings
    rows = [
        row
        for name in ("boolq", "ARC-Easy", "winogrande", "social_i_qa")
        for row in load_prompts(find(f"commonsense/{name}"), str(shared_data / "commonsense"), "test", 60)
        if len(token_ids(own.tokenizer, [row.prompt + row.answer])[0]) <= limit
    ]
    rows = random.Random(0).sample(rows, min(len(rows), 90)) + load_prompts(
        find("builtin/questions"), "builtin", "validation", 30
    )
    pairs = [(row, index) for row in rows for index in range(len(row.candidates))][-200:]
    assert len(pairs) == 200
    predictions = {id(row): Choices(own, CPU).predict(find("commonsense/boolq"), [row])[0] for row, _ in pairs}
    harness = HFLM(pretrained=own.model, tokenizer=own.tokenizer, batch_size=8, add_bos_token=True)
    requests = [
        Instance("loglikelihood", {}, (row.prompt, row.candidates[index]), number)
        for number, (row, index) in enumerate(pairs)
    ]
    expected = [value for value, _ in harness.loglikelihood(requests, disable_tqdm=True)]
    found = [list((predictions[id(row)].scores or {}).values())[index] for row, index in pairs]
    assert found == pytest.approx(expected, abs=1e-4)
