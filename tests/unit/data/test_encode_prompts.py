"""Prompts and answers as tokens: what is supervised, what is cut, what is padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reflora_cli.data.encode_prompts import (
    PromptRow,
    collate_prompts,
    common_length,
    encode_prompts,
)
from reflora_cli.data.pad import pad_left
from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.examples import PromptExample
from tests.language_models import prompt_row, tokenizer

TOKENIZER = tokenizer()
END = TOKENIZER.eos_token_id


def example(prompt: str, answer: str) -> PromptExample:
    return PromptExample(prompt, answer, prompt)


def supervised_text(row: PromptRow) -> str:
    return str(TOKENIZER.decode(row.input_ids[row.spans[0][0] :]))


def test_the_answer_and_the_end_are_supervised() -> None:
    (row,) = encode_prompts(TOKENIZER, [example("Who is it? Answer:", " the box")], 64, train_on_prompt=False).rows
    assert row.input_ids[-1] == END
    assert supervised_text(row) == " the box<eos>"
    assert row.weight == len(row.input_ids) - row.spans[0][0]


def test_with_the_prompt_everything_but_the_first_token_is() -> None:
    (row,) = encode_prompts(TOKENIZER, [example("Who?", " the box")], 64, train_on_prompt=True).rows
    assert row.spans[0][0] == 1
    assert supervised_text(row) == " Who? the box<eos>"


def test_a_token_across_the_border_belongs_to_the_answer() -> None:
    """`pea` + `ch`: joined as one text, the tokens of the prompt alone do not all occur."""
    (row,) = encode_prompts(TOKENIZER, [example("a kit", "chen")], 64, train_on_prompt=False).rows
    joined = TOKENIZER("a kitchen")["input_ids"]
    assert row.input_ids.tolist() == [*joined, END]
    assert row.spans[0][0] == common_length(TOKENIZER("a kit")["input_ids"], joined) < len(joined)


def test_an_end_token_that_the_tokenizer_adds_is_not_doubled() -> None:
    from tokenizers.processors import TemplateProcessing

    ending = tokenizer()
    ending.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", END)]
    )
    (row,) = encode_prompts(ending, [example("Who?", " the box")], 64, train_on_prompt=False).rows
    assert (row.input_ids == END).sum() == 1
    assert supervised_text(row) == " the box<eos>"


def test_an_answer_cut_in_part_stays_and_has_no_end() -> None:
    whole = encode_prompts(TOKENIZER, [example("Who?", " the small wooden box")], 64, train_on_prompt=False).rows[0]
    (row,) = encode_prompts(
        TOKENIZER, [example("Who?", " the small wooden box")], len(whole.input_ids) - 2, train_on_prompt=False
    ).rows
    assert row.input_ids.tolist() == whole.input_ids[:-2].tolist()


@pytest.mark.parametrize("train_on_prompt", [False, True])
def test_rows_whose_whole_answer_is_cut_are_dropped_and_counted(train_on_prompt: bool) -> None:
    rows = [example("Who?", " box")] * 39 + [example("a cup is small. " * 20, " box")]
    found = encode_prompts(TOKENIZER, rows, 20, train_on_prompt=train_on_prompt)
    assert (len(found.rows), found.dropped) == (39, 1)
    with pytest.raises(InputError) as caught:
        encode_prompts(TOKENIZER, rows[21:], 20, train_on_prompt=train_on_prompt)
    (problem,) = caught.value.problems
    assert problem.found.startswith("1 of 19 rows")
    assert problem.where == "task.max_length"


def test_padding_is_masked_by_length_even_where_it_is_the_end_token() -> None:
    rows = [prompt_row([1, 5, 6, END], 2), prompt_row([1, END], 1)]
    batch = collate_prompts(rows, pad_token=END)
    assert batch["input_ids"].tolist() == [[1, 5, 6, END], [1, END, END, END]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["supervised"].tolist() == [1, 2, 4]
    assert batch["targets"].tolist() == [6, END, END]


@given(
    st.lists(
        st.lists(st.integers(3, 99), min_size=2, max_size=9).flatmap(
            lambda tokens: st.integers(1, len(tokens) - 1).map(lambda place: prompt_row(tokens, place))
        ),
        min_size=1,
        max_size=6,
    )
)
def test_as_many_targets_as_the_rows_weigh(rows: list[PromptRow]) -> None:
    batch = collate_prompts(rows, pad_token=2)
    assert len(batch["targets"]) == sum(row.weight for row in rows)
    parts = torch.split(batch["targets"], [row.weight for row in rows])
    for row, targets in zip(rows, parts, strict=True):
        assert targets.tolist() == row.input_ids[row.spans[0][0] :].tolist()
    flat = batch["input_ids"].flatten()
    assert torch.equal(flat[batch["supervised"] + 1], batch["targets"]), "each is the token after its place"


def test_left_padding_ends_all_rows_together() -> None:
    padded, mask = pad_left([[5, 6, 7], [8]], 0)
    assert padded.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert torch.equal(mask, torch.tensor([[1, 1, 1], [0, 0, 1]]))
