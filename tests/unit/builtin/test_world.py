"""The closed world: facts, rows and the tiny model that has read about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from reflora_cli.builtin import pretrain
from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.phrases import plural, with_article
from reflora_cli.builtin.rows import EXAMPLES, rows
from reflora_cli.builtin.sentences import statements, texts
from reflora_cli.builtin.world import RELATIONS, SPLITS, THINGS, Fact, all_facts, facts, false_values
from tests.unit.builtin.digest import EVERY_SPLIT, digest

TINY = pretrain.OUTPUT
COLUMNS = {
    "acceptability": ["sentence", "label"],
    "entailment": ["premise", "hypothesis", "label"],
    "questions": ["question", "choices", "answer"],
}


def test_the_world_is_large_and_every_split_has_every_relation() -> None:
    assert len(THINGS) == len({thing.name for thing in THINGS}) > 120
    assert len(all_facts()) == len(set(all_facts())) > 1500
    for split in SPLITS:
        assert {fact.relation for fact in facts(split)} == set(RELATIONS)


def test_each_fact_is_in_one_split() -> None:
    train, validation = set(facts("train")), set(facts("validation"))
    assert not train & validation
    assert train | validation == set(all_facts())


def test_a_false_value_is_never_true() -> None:
    for fact in all_facts():
        wrong = false_values(fact)
        assert wrong
        assert fact.value not in wrong
        assert not {Fact(fact.thing, fact.relation, value) for value in wrong} & set(all_facts())


@pytest.mark.parametrize("generator", EXAMPLES)
def test_training_and_validation_rows_are_about_different_facts(generator: str) -> None:
    train, validation = ({fact for fact, _ in EXAMPLES[generator](split)} for split in SPLITS)
    assert train
    assert validation
    assert not train & validation


@pytest.mark.parametrize("generator", EXAMPLES)
def test_no_row_comes_twice(generator: str) -> None:
    keys = [json.dumps({**row, "label": 0}) for row in chain(*(rows(generator, split) for split in SPLITS))]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize(("generator", "split"), EVERY_SPLIT)
def test_columns_size_and_balance(generator: str, split: str) -> None:
    found = rows(generator, split)
    low, high = (2000, 3000) if split == "train" else (400, 500)
    assert low <= len(found) <= high
    assert all(list(row) == COLUMNS[generator] for row in found)
    *_, target = COLUMNS[generator]
    labels = [row[target] for row in found]
    assert len({labels.count(label) for label in labels}) == 1


@pytest.mark.parametrize("split", SPLITS)
def test_questions_have_one_right_choice_of_four(split: str) -> None:
    for fact, row in EXAMPLES["questions"](split):
        choices, answer = row["choices"], row["answer"]
        assert isinstance(choices, list)
        assert isinstance(answer, int)
        assert len(set(choices)) == len(choices) == 4
        assert choices[answer] == fact.value


@pytest.mark.parametrize("column", [0, 1])
def test_neither_half_of_a_pair_says_whether_it_is_entailed(column: int) -> None:
    """Every word of the premise, and every word of the hypothesis, is common under both labels or rare."""
    words: dict[str, list[int]] = {}
    for row in rows("entailment", "train"):
        *texts_of_pair, label = row.values()
        assert isinstance(label, int)
        for word in set(str(texts_of_pair[column]).split()):
            words.setdefault(word, []).append(label)
    common = {word: sum(labels) / len(labels) for word, labels in words.items() if len(labels) >= 150}
    assert common
    assert all(0.3 < share < 0.7 for share in common.values()), common


def test_golden_rows() -> None:
    assert rows("acceptability", "train")[:2] == GOLDEN_ACCEPTABILITY
    assert rows("entailment", "train")[:2] == GOLDEN_ENTAILMENT
    assert rows("questions", "train")[0] == GOLDEN_QUESTION


GOLDEN_ACCEPTABILITY = [
    {"sentence": "Dora says that calendars are documents.", "label": 1},
    {"sentence": "Every calendar to is a document.", "label": 0},
]
GOLDEN_ENTAILMENT = [
    {"premise": "Every calendar is a document.", "hypothesis": "A calendar is a document.", "label": 0},
    {"premise": "No calendar is an ornament.", "hypothesis": "A calendar is an ornament.", "label": 1},
]
GOLDEN_QUESTION = {
    "question": "What is a calendar?",
    "choices": ["document", "utensil", "ornament", "vehicle"],
    "answer": 0,
}


def test_rows_do_not_depend_on_hash_randomisation() -> None:
    """A process with other string hashes makes the same rows and texts."""
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(Path(pretrain.__file__).parents[2])}
    command = [sys.executable, "-m", "tests.unit.builtin.digest"]
    printed = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == digest()


@pytest.mark.parametrize(("generator", "split"), [("poems", "train"), ("entailment", "test")])
def test_unknown_names_are_key_errors(generator: str, split: str) -> None:
    with pytest.raises(KeyError):
        rows(generator, split)


def test_texts_hold_no_labelled_row() -> None:
    read = set(texts())
    for split in SPLITS:
        assert not read & {f"{row['premise']} {row['hypothesis']}" for row in rows("entailment", split)}
        assert not read & {str(row["sentence"]) for row in rows("acceptability", split) if row["label"] == 0}
        assert not any(str(row["question"]) in text for row in rows("questions", split)[::50] for text in read)


def test_articles_and_plurals() -> None:
    assert [with_article(noun) for noun in ("anvil", "hammer", "utensil")] == ["an anvil", "a hammer", "a utensil"]
    assert [plural(noun) for noun in ("box", "tray", "diary", "shelf", "roof")] == [
        "boxes",
        "trays",
        "diaries",
        "shelves",
        "roofs",
    ]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    loaded: PreTrainedModel = AutoModelForCausalLM.from_pretrained(TINY)
    return loaded.eval()


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(TINY)
    return loaded


def test_the_model_is_small() -> None:
    assert sum(file.stat().st_size for file in TINY.iterdir()) <= 5_000_000


def test_parameters_and_padding(model: PreTrainedModel) -> None:
    assert 1_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 2_000_000
    assert model.config.pad_token_id == pretrain.PAD
    assert model.config.pad_token_id != model.config.eos_token_id


def test_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    special = [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    assert special == [pretrain.PAD, pretrain.BOS, pretrain.EOS, pretrain.UNK]
    assert tokenizer.padding_side == "right"
    encoded = tokenizer("The zebra sings.", "Ünseen wörds!")
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert encoded["input_ids"].count(pretrain.BOS) == 1
    assert pretrain.UNK not in encoded["input_ids"]
    assert tokenizer.decode(encoded["input_ids"], skip_special_tokens=True) == " The zebra sings. Ünseen wörds!"


def test_rows_are_short(tokenizer: PreTrainedTokenizerBase) -> None:
    pairs = [(str(row["premise"]), str(row["hypothesis"])) for row in rows("entailment", "train")]
    assert max(len(tokenizer(*pair)["input_ids"]) for pair in pairs) <= 32


def mean_loss(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> float:
    batch = tokenizer(sentences, padding=True, return_tensors="pt")
    labels: Tensor = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, pretrain.IGNORED)
    with torch.no_grad():
        return float(model(**batch, labels=labels).loss)


def plain_statement(fact: Fact) -> str:
    """The fact in its simplest wording."""
    return statements(fact, Dice(f"{fact.thing.name} {fact.relation}"))[0]


def test_the_model_has_learned_the_world(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """True statements of held-out facts are far likelier than chance, than shuffled words and than false ones."""
    dice = Dice("test")
    known = [fact for fact in facts("validation") if fact.relation not in ("smaller", "owner", "moved")]
    true = [plain_statement(fact) for fact in known]
    shuffled = [" ".join(dice.shuffled(sentence.split())) for sentence in true]
    false = [plain_statement(Fact(fact.thing, fact.relation, dice.pick(false_values(fact)))) for fact in known]
    loss = mean_loss(model, tokenizer, true)
    assert loss < 0.4 * torch.log(torch.tensor(float(len(tokenizer)))).item()
    assert mean_loss(model, tokenizer, shuffled) > 2 * loss
    assert mean_loss(model, tokenizer, false) > loss + 0.3
