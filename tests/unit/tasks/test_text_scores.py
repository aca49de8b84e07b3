"""Scores of texts: those of sacrebleu's own command, and ROUGE computed anew."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.text_scores import TextScores

WORDS = ["the", "The", "cup", ",", "box", "is's", "red-ish", "blue", "in", "on", "a", "£20", "old", ".", "café"]


def predictions(count: int, seed: int) -> list[Prediction]:
    """Texts that are their references with words changed, of which there are one to four."""
    dice = random.Random(seed)
    found = []
    for _ in range(count):
        references = tuple(" ".join(dice.choices(WORDS, k=dice.randint(3, 12))) for _ in range(dice.randint(1, 4)))
        words = [word if dice.random() < 0.8 else dice.choice(WORDS) for word in references[-1].split()]
        found.append(Prediction(references[0], " ".join(words), references=references))
    return [
        *found,
        Prediction("a cup", "", references=("a cup",)),
        Prediction("a  cup", "a  cup", references=("a  cup",)),
    ]


def tally(outcomes: Sequence[Prediction]) -> TextScores:
    own = TextScores()
    for outcome in outcomes:
        own.add(outcome)
    return own


def command(outcomes: Sequence[Prediction], metric: str, place: Path) -> float:
    """What sacrebleu's command says of files with one text on each line."""
    most = max(len(own.references) for own in outcomes)
    (place / "hypotheses").write_text("".join(f"{own.parsed}\n" for own in outcomes), encoding="utf-8")
    for number in range(most):
        lines = (own.references[number] if number < len(own.references) else "" for own in outcomes)
        (place / str(number)).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    arguments = [*map(str, range(most)), "-i", "hypotheses", "-m", metric, "-b", "-w", "9"]
    ran = subprocess.run(
        [sys.executable, "-m", "sacrebleu", *arguments], cwd=place, capture_output=True, text=True, check=True
    )
    return float(ran.stdout)


@pytest.mark.parametrize("seed", [0, 1])
def test_bleu_and_chrf_are_those_of_sacrebleu_s_command(seed: int, tmp_path: Path) -> None:
    outcomes = predictions(40, seed)
    found = tally(outcomes).scores()
    assert 20 < found["bleu"] < 90
    for metric in ("bleu", "chrf"):
        assert found[metric] == pytest.approx(command(outcomes, metric, tmp_path), abs=1e-8)


def f_measure(overlap: int, hypothesis: int, reference: int) -> float:
    return 2 * overlap / (hypothesis + reference) if overlap else 0.0


def own_rouge(hypothesis: str, references: Sequence[str]) -> tuple[float, float, float]:
    found = []
    own = re.findall("[a-z0-9]+", hypothesis.lower())
    for reference in references:
        other = re.findall("[a-z0-9]+", reference.lower())
        scores = []
        for size in (1, 2):
            mine, theirs = (Counter(zip(*(words[i:] for i in range(size)), strict=False)) for words in (own, other))
            scores.append(f_measure((mine & theirs).total(), mine.total(), theirs.total()))
        table = np.zeros((len(own) + 1, len(other) + 1), dtype=int)
        for i, word in enumerate(own):
            for j, second in enumerate(other):
                table[i + 1, j + 1] = table[i, j] + 1 if word == second else max(table[i, j + 1], table[i + 1, j])
        found.append([*scores, f_measure(int(table[-1, -1]), len(own), len(other))])
    return tuple(max(column) for column in zip(*found, strict=True))  # type: ignore[return-value]


def test_rouge_is_the_mean_over_texts_of_the_nearest_reference() -> None:
    outcomes = predictions(40, 2)
    expected = np.mean([own_rouge(own.parsed or "", own.references) for own in outcomes], axis=0) * 100
    found = tally(outcomes).scores()
    assert [found[name] for name in ("rouge1", "rouge2", "rougeL")] == pytest.approx(list(expected), rel=1e-12)


def test_the_same_texts_are_worth_100_and_none_0() -> None:
    text = "the cup in the box is red ."
    same = tally([Prediction("x", text, references=("another one", text))] * 3)
    best = dict.fromkeys(("bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match"), pytest.approx(100.0))
    assert same.scores() == {**best, "cut": 0.0}
    assert same.interval() == pytest.approx((100, 100))
    assert TextScores().interval() is None
    assert list(TextScores().scores()) == list(same.scores())
    assert set(TextScores().scores().values()) == {0.0}


def test_another_main_score_comes_first_and_has_no_interval() -> None:
    usual, own = tally(predictions(20, 2)), TextScores(main="rouge2")
    assert next(iter(own.scores())) == "rouge2"
    for outcome in predictions(20, 2):
        own.add(outcome)
    whole = TextScores.total([own, TextScores(main="rouge2")])
    assert list(whole.scores()) == ["rouge2", "bleu", "chrf", "rouge1", "rougeL", "exact_match", "cut"]
    assert whole.scores() == usual.scores()
    assert whole.interval() is None


def test_the_order_of_rows_does_not_matter() -> None:
    outcomes = predictions(60, 3)
    shuffled = random.Random(0).sample(outcomes, len(outcomes))
    assert tally(shuffled).scores() == tally(outcomes).scores()
    assert tally(shuffled).interval() == tally(outcomes).interval()


def test_the_interval_is_about_the_score_and_narrower_for_more_rows() -> None:
    few, many = tally(predictions(20, 4)), tally([one for seed in range(10) for one in predictions(20, seed)])
    widths = []
    for own in (few, many):
        low, high = own.interval() or (0, 0)
        assert low < own.scores()["bleu"] < high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1]


def test_white_space_is_not_scored_but_is_no_exact_match() -> None:
    found = tally(
        [Prediction("a  red\ncup is here", "a red cup  is here", references=("a  red\ncup is here",))]
    ).scores()
    assert (found["bleu"], found["exact_match"]) == (pytest.approx(100), 0)
