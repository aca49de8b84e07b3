"""Rows are known by their digest, in runs that exist too."""

from __future__ import annotations

from dataclasses import replace

from reflora_cli.runs.environment import data_hash
from reflora_cli.tasks.examples import PromptExample

ROW = PromptExample("p\n", " b", "q", (" a", " b"), ("a", "b"), "b")


def test_rows_without_references_have_the_digest_of_earlier_runs() -> None:
    """The digest was recorded when rows had no references."""
    assert data_hash([ROW]) == "82313487bb2fa32c794637fb7e8b0c080fa9b4cd4a527ea966a50677f1f46af4"


def test_every_field_is_in_the_digest() -> None:
    others = [
        replace(ROW, prompt="x"), replace(ROW, answer="x"), replace(ROW, generation_prompt="x"),
        replace(ROW, candidates=()), replace(ROW, labels=()), replace(ROW, label="a"),
        replace(ROW, references=("b",)), replace(ROW, references=("b", "c")),
    ]  # fmt: skip
    digests = [data_hash([row]) for row in (ROW, *others)]
    assert len(set(digests)) == len(digests)
