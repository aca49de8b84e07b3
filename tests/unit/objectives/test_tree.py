"""Candidates as branches of a tree: each as if the others were not there."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from reflora_cli.model.precision import Compute
from reflora_cli.objectives.choices import Choices
from reflora_cli.objectives.reading import Branches, stems_then_tails
from reflora_cli.objectives.tree import asked_at, branch_of_each, in_one_pass, layout, places
from tests.language_models import base

CPU = Compute(torch.device("cpu"), torch.float32)
ROW = Branches([1, 2, 3, 4], 1, [[5, 6, 7], [8], [5, 9]], cut=False)


def test_a_row_is_its_stem_and_then_its_tails_without_their_last_tokens() -> None:
    assert layout(ROW) == [1, 2, 3, 4, 5, 6, 5]
    assert places(ROW) == [0, 1, 2, 3, 4, 5, 4]
    assert branch_of_each(ROW) == [0, 0, 0, 0, 1, 1, 3]
    # Before the shared 4, before 5 6 7, before 8, before 5 9.
    assert asked_at(ROW) == [2, 3, 4, 5, 3, 3, 6]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt-neox"])
@pytest.mark.parametrize("stems", [(6, 3), (25, 20)], ids=["apart", "alike"])
def test_states_are_those_of_every_candidate_alone(name: str, attention: str, stems: tuple[int, int]) -> None:
    """In batches with and without a common beginning, by the model's own mask."""
    own = base(name)
    own.model.set_attn_implementation(attention)
    own.model.eval()
    scorer = Choices(own, CPU)
    assert scorer.has_trees
    rows = [
        Branches([*range(10, 10 + stems[0])], 2, [[5, 6, 7, 8], [9], [5, 40]], cut=False),
        Branches([*range(10, 9 + stems[1]), 41], 0, [[42, 43], [44, 45, 46]], cut=False),
    ]
    with torch.no_grad():
        found = in_one_pass(scorer.reader, rows)
        expected = []
        for row in rows:
            for index, tail in enumerate(row.tails):
                ids = torch.tensor([[*row.stem, *tail]])
                states = own.model.base_model(ids, use_cache=False).last_hidden_state[0]
                expected.append(states[len(row.stem) - 1 - (row.shared if index == 0 else 0) : -1])
    torch.testing.assert_close(found, torch.cat(expected), atol=2e-5, rtol=1e-5)
    assert found.shape == stems_then_tails(scorer.reader, rows).shape


def test_a_row_longer_than_the_window_is_read_without_branches() -> None:
    own = base("llama")
    own.model.eval()
    scorer = Choices(own, CPU)
    masks: list[int] = []
    own.model.base_model.register_forward_pre_hook(
        lambda _, __, inputs: masks.append(inputs["attention_mask"].ndim), with_kwargs=True
    )
    long = Branches([7] * (scorer.limit - 3), 0, [[5, 6, 7], [8, 9, 10], [11, 12, 13]], cut=False)
    assert len(layout(long)) > scorer.limit
    sums = scorer.log_likelihoods([long])
    assert all(torch.tensor(sums[0]).isfinite())
    assert masks == [2, 2]
    scorer.log_likelihoods([ROW])
    assert masks[2:] == [4]


def test_candidates_after_virtual_tokens_have_no_tree() -> None:
    own = base("llama")
    assert Choices(own, CPU).has_trees
    assert not Choices(replace(own, reserved=3), CPU).has_trees
