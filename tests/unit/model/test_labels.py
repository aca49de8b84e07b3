"""A checkpoint's own words for its outputs."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import BertConfig

from reflora_cli.model.labels import ordered_as, said_labels

MNLI = ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("names", "said", "expected"),
    [
        (MNLI, ("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), ("contradiction", "neutral", "entailment")),
        (MNLI, MNLI, MNLI),
        (("negative", "positive"), ("NEGATIVE", "POSITIVE"), ("negative", "positive")),
        (("entailment", "not_entailment"), ("Not Entailment", "Entailment"), ("not_entailment", "entailment")),
        (("entailment", "not_entailment"), ("not-entailment", "ENTAILMENT"), ("not_entailment", "entailment")),
        (MNLI, ("entailment", "neutral", "refutation"), None),
        (MNLI, ("entailment", "entailment", "neutral"), None),
        (MNLI, ("entailment", "neutral"), None),
        (("C", "C++", "C#"), ("C++", "C", "C#"), ("C++", "C", "C#")),
        (("+", "-"), ("-", "+"), ("-", "+")),
    ],
)
def test_names_match_without_case_and_separators(
    names: tuple[str, ...], said: tuple[str, ...], expected: tuple[str, ...] | None
) -> None:
    assert ordered_as(names, said) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ()),
        ({"num_labels": 3}, ()),
        ({"id2label": {"0": "label 0", "1": "1"}}, ()),
        ({"id2label": {"0": "NEGATIVE", "1": "POSITIVE"}}, ("NEGATIVE", "POSITIVE")),
        ({"id2label": {"1": "POSITIVE", "0": "NEGATIVE"}}, ("NEGATIVE", "POSITIVE")),
        ({"id2label": {"5": "x", "1": "y"}}, ("", "y")),
    ],
)
def test_generic_names_say_nothing(settings: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert said_labels(BertConfig(**settings)) == expected
