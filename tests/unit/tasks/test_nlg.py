"""The prompts of E2E and WebNLG to the letter, and the published files row by row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reflora_cli.data.load import load_prompts
from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.nlg import E2E, WEBNLG, TextColumns, generation_task
from reflora_cli.tasks.wording import Wording

MEANING = "name : Blue Spice | Type : coffee shop | area : city centre"
TEXTS = ("A coffee shop in the city centre area called Blue Spice .", "Blue Spice is a coffee shop in city centre .")
TRIPLES = 'Aarhus | leaderName | Jacob_Bundsgaard && Aarhus_Airport | cityServed | "Aarhus, Denmark"'


def expected(prompt: str, *references: str) -> PromptExample:
    return PromptExample(prompt, f" {references[0]}", prompt, (), (), references[0], references)


def test_a_meaning_becomes_a_prompt() -> None:
    whole = expected("name : Blue Spice | Type : coffee shop | area : city centre ||", *TEXTS)
    assert E2E.example({"meaning": MEANING, "references": list(TEXTS)}) == whole
    one = expected(f"{MEANING} ||", TEXTS[1])
    assert E2E.example({"meaning": MEANING, "text": TEXTS[1] + " \n", "references": None}) == one


def test_triples_become_a_prompt() -> None:
    prompt = 'Aarhus : leaderName : Jacob_Bundsgaard | Aarhus_Airport : cityServed : "Aarhus, Denmark" ||'
    assert WEBNLG.example({"triples": TRIPLES, "text": "A text."}) == expected(prompt, "A text.")


def test_columns_and_wording_of_one_s_own() -> None:
    task = generation_task("own", Wording("{article}\nTL;DR:"), TextColumns("summary", "summaries"))
    assert task.columns == ("article", "summary", "summaries")
    row = {"article": "Long {input}.", "summary": "Short.\nAnd more.", "summaries": ["Brief."]}
    assert task.example(row) == expected("Long {input}.\nTL;DR:", "Short.\nAnd more.", "Brief.")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"meaning": MEANING}, "both missing"),
        ({"meaning": MEANING, "references": []}, "both missing"),
        ({"meaning": MEANING, "references": ["x", " "]}, "an empty one"),
        ({"meaning": MEANING, "references": ["x", 3]}, "not a text"),
        ({"meaning": MEANING, "references": "x"}, "not a list of texts"),
        ({"meaning": MEANING, "text": 3}, "not a text"),
        ({"text": "x"}, "meaning"),
    ],
)
def test_bad_rows_are_refused(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "validation.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"meaning": MEANING, "text": "x", "references": None}))
    with pytest.raises(InputError, match=message):
        load_prompts(E2E, str(path), "validation", None)


@pytest.mark.parametrize("triples", ["a | b", "a | b | c && d", "a | b | c | d"])
def test_what_is_no_triple_is_refused(triples: str) -> None:
    with pytest.raises(ValueError, match="'triples' are not"):
        WEBNLG.example({"triples": triples, "text": "x"})


@pytest.mark.parametrize(
    ("task", "column", "sizes"),
    [
        (E2E, "meaning", {"train": (3681, 3681), "validation": (100, 991), "test": (630, 4693)}),
        (WEBNLG, "triples", {"train": (18102, 18102), "validation": (872, 2268), "test": (1862, 4928)}),
    ],
)
def test_published_files_load_whole(
    task: PromptTask, column: str, sizes: dict[str, tuple[int, int]], shared_data: Path
) -> None:
    for split, size in sizes.items():
        examples = load_prompts(task, str(shared_data / "nlg"), split, None)
        assert (len(examples), sum(len(one.references) for one in examples)) == size
        lines = (shared_data / "nlg" / task.short / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        for line, one in zip(lines, examples, strict=True):
            row = json.loads(line)
            letters = "".join(one.prompt.removesuffix(" ||").replace(" | ", "").replace(" : ", "").split())
            source = row[column].replace(" && ", "").replace(" | ", "").replace(" : ", "")
            assert letters == "".join(source.split())
            assert one.references == tuple(text.strip() for text in row.get("references", [row.get("text")]))
