"""Generated answers: the same in every batch size, ended by the end token, shaped by nothing but our settings."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from reflora_cli.data.load import load_prompts
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.settings import GenerationCache
from reflora_cli.model.base import Base
from reflora_cli.model.language import load_language_model
from reflora_cli.model.precision import Compute
from reflora_cli.objectives.generation import Generation, NoRepeat, Penalties
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.registry import find_task
from tests.language_models import MODELS, base

CPU = Compute(torch.device("cpu"), torch.float32)


def task(name: str) -> PromptTask:
    found = find_task(name)
    assert isinstance(found, PromptTask)
    return found


def rows(count: int) -> list[PromptExample]:
    return load_prompts(task("builtin/questions"), "builtin", "validation", count)


@pytest.fixture
def tiny() -> Base:
    own = load_language_model(ModelSection(name="builtin:tiny-llama"), None, torch.float32)
    own.model.eval()
    return own


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", [*MODELS, "mamba", "rwkv"])
def test_batch_size_does_not_change_an_answer(name: str, beams: int) -> None:
    """Prompts of different lengths, padded on the left and masked."""
    own = base(name)
    own.model.eval()
    scorer = Generation(own, CPU, beams, 8)
    examples = [*rows(5), PromptExample("Who?", "", "Who?", ("a",), ("a",), "a")]
    together = scorer.predict(task("builtin/questions"), examples)
    alone = [scorer.predict(task("builtin/questions"), [row])[0] for row in examples]
    assert [prediction.output for prediction in together] == [prediction.output for prediction in alone]


def test_real_model_and_rows_give_the_same_in_batches_of_1_and_64(shared_data: Path) -> None:
    own = load_language_model(ModelSection(name=str(shared_data / "weights" / "stories260K")), None, torch.float32)
    own.model.eval()
    scorer = Generation(own, CPU, 1, 32)
    examples = load_prompts(task("commonsense/boolq"), str(shared_data / "commonsense"), "test", 64)
    together = scorer.predict(task("commonsense/boolq"), examples)
    alone = [scorer.predict(task("commonsense/boolq"), [row])[0] for row in examples[:16]]
    assert together[:16] == alone


@pytest.mark.parametrize("name", ["tiny", "rwkv"])
def test_answers_are_those_of_plain_greedy_search(tiny: Base, name: str) -> None:
    """Token by token, without cache or padding, up to the end token."""
    own = tiny if name == "tiny" else base(name)
    own.model.eval()
    scorer = Generation(own, CPU, 1, 8)
    model: Any = own.model
    for row, prediction in zip(rows(4), scorer.predict(task("builtin/questions"), rows(4)), strict=True):
        ids = own.tokenizer(row.generation_prompt)["input_ids"]
        begin = len(ids)
        for _ in range(8):
            with torch.no_grad():
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == own.tokenizer.eos_token_id:
                break
        assert prediction.output == own.tokenizer.decode(ids[begin:], skip_special_tokens=True).strip()


def test_the_models_own_sampling_and_penalties_are_not_used(tiny: Base) -> None:
    scorer = Generation(tiny, CPU, 1, 8)
    plain = scorer.predict(task("builtin/questions"), rows(6))
    own = tiny.model.generation_config
    own.do_sample, own.temperature, own.repetition_penalty, own.max_new_tokens = True, 5.0, 3.0, 1
    assert scorer.predict(task("builtin/questions"), rows(6)) == plain
    assert tiny.model.generation_config is own


def test_what_follows_the_last_response_mark_is_parsed(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["it is true\n### Response: false, or true", "nothing", " true"]
    monkeypatch.setattr(tiny.tokenizer, "batch_decode", lambda *_, **__: texts)
    examples = [PromptExample("p", "false", "p", ("true", "false"), ("true", "false"), "false")] * 3
    found = Generation(tiny, CPU, 1, 4).predict(task("commonsense/boolq"), examples)
    assert [(one.parsed, one.correct) for one in found] == [("false", True), (None, False), ("true", False)]


def test_a_prompt_too_long_for_the_model_loses_its_beginning(tiny: Base) -> None:
    long = PromptExample("p", "a", "a cup is small. " * 200 + "Who?", ("a",), ("a",), "a")
    (prediction,) = Generation(tiny, CPU, 1, 4).predict(task("builtin/questions"), [long])
    assert prediction.cut


def test_no_room_for_a_prompt_is_an_error(tiny: Base) -> None:
    with pytest.raises(InputError, match="no room"):
        Generation(tiny, CPU, 1, 256)


def test_what_the_prompt_holds_may_be_said_again_and_nothing_else() -> None:
    """Token 3 would end a second 1 2 3: in the written text it is forbidden, after a prompt with 1 2 3 it is not."""
    scores = torch.zeros(2, 5)
    prompt = torch.tensor([[1, 2, 3], [0, 1, 2]])
    written = torch.tensor([[1, 2, 0, 1, 2], [1, 2, 3, 1, 2]])
    found = NoRepeat(3, 3)(torch.cat([prompt, written], dim=1), scores)
    assert found.isinf().nonzero().tolist() == [[0, 0], [1, 3]]
    assert not NoRepeat(3, 3)(prompt, scores).isinf().any()


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_no_tokens_in_a_row_are_written_twice(name: str) -> None:
    """Token by token, without a cache: of the tokens that would repeat a pair of written ones none is chosen."""
    tiny = base(name)
    tiny.model.eval()
    scorer = Generation(tiny, CPU, 1, 40, Penalties(no_repeat_ngram=2))
    model: Any = tiny.model
    for row, written in zip(rows(4), scorer.texts(rows(4)), strict=True):
        ids = tiny.tokenizer(row.generation_prompt)["input_ids"]
        own: list[int] = []
        while len(own) < 40 and tiny.tokenizer.eos_token_id not in own:
            with torch.no_grad():
                logits = model(torch.tensor([ids + own])).logits[0, -1]
            pairs = set(pairwise(own))
            order = logits.argsort(descending=True).tolist()
            own.append(next(token for token in order if not own or (own[-1], token) not in pairs))
        assert written.text == tiny.tokenizer.decode(own, skip_special_tokens=True)
    free = Generation(tiny, CPU, 1, 40).texts(rows(4))
    assert [one.text for one in free] != [one.text for one in scorer.texts(rows(4))]


def test_beams_are_compared_by_their_length_as_transformers_does(tiny: Base) -> None:
    found = {}
    for penalty in (-8.0, 1.0, 8.0):
        outputs = [one.text for one in Generation(tiny, CPU, 4, 12, Penalties(penalty)).texts(rows(6))]
        model: Any = tiny.model
        for row, output in zip(rows(6), outputs, strict=True):
            ids = torch.tensor([tiny.tokenizer(row.generation_prompt)["input_ids"]])
            own = model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=4, length_penalty=penalty,
                max_new_tokens=12, do_sample=False, pad_token_id=tiny.tokenizer.pad_token_id,
                eos_token_id=tiny.tokenizer.eos_token_id,
            )  # fmt: skip
            assert output == tiny.tokenizer.decode(own[0, ids.shape[1] :], skip_special_tokens=True)
        found[penalty] = outputs
    assert found[-8.0] != found[8.0]


def test_settings_name_the_penalties_that_are_in_force(tiny: Base) -> None:
    plain = {"protocol": "llm-adapters", "num_beams": 2, "max_new_tokens": 4}
    assert Generation(tiny, CPU, 2, 4).settings() == plain
    own = Generation(tiny, CPU, 2, 4, Penalties(0.8, 4)).settings()
    assert own == {**plain, "length_penalty": 0.8, "no_repeat_ngram": 4}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen3", "mistral-window"])
def test_a_static_cache_gives_the_answers_of_a_dynamic_one(name: str, beams: int) -> None:
    """In batches of unequal rows, the longest first or last."""
    own = base(name)
    own.model.eval()
    plain, static = Generation(own, CPU, beams, 8), Generation(own, CPU, beams, 8, cache=GenerationCache.STATIC)
    examples = [PromptExample("Who?", "", "Who?", ("a",), ("a",), "a"), *rows(4)]
    caches: list[str] = []
    body: Any = own.model.base_model
    body.register_forward_hook(lambda _, __, output: caches.append(type(output.past_key_values).__name__))
    found = static.predict(task("builtin/questions"), examples)
    assert set(caches) == {"StaticCache"}
    assert static.predict(task("builtin/questions"), examples[:1]) == found[:1]
    assert found == plain.predict(task("builtin/questions"), examples)
    assert static.settings() == {**plain.settings(), "cache": "static"}


def test_batches_of_a_static_cache_are_of_one_size(tiny: Base) -> None:
    examples = [PromptExample("p", "a", "a cup " * count, ("a",), ("a",), "a") for count in (1, 40, 2, 30, 1)]
    assert Generation(tiny, CPU, 1, 8, cache=GenerationCache.STATIC).batches(examples, 2) == [[1, 3], [2, 0], [4]]
    assert Generation(tiny, CPU, 1, 8).batches(examples, 2) == [[1, 3], [2, 0, 4]]


def test_a_model_that_mixes_the_rows_of_a_batch_has_no_static_cache() -> None:
    own = base("rwkv")
    own.model.eval()
    with pytest.raises(InputError, match=r"eval\.cache"):
        Generation(own, CPU, 1, 8, cache=GenerationCache.STATIC)


def test_virtual_tokens_need_a_cache_that_grows(tiny: Base) -> None:
    own = replace(tiny, reserved=3)
    assert Generation(own, CPU, 1, 8).settings() == Generation(tiny, CPU, 1, 8).settings()
    with pytest.raises(InputError, match="with virtual tokens"):
        Generation(own, CPU, 1, 8, cache=GenerationCache.STATIC)
