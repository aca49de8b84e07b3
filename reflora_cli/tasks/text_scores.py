"""Scores of generated texts against several reference texts each, in points of 100.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are sacrebleu's with its own settings, so that its command gives the
same numbers for the same files: 13a tokenization, case kept. ROUGE-1, -2 and -L (Lin 2004) are the F-measures of the
library rouge-score, without stemming, each of the reference that is nearest. An exact match is one of the references to
the letter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self, final

from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.tally import Tally

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric

NAMES = ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "exact_match", "cut")
"""The names of the scores. `cut` is the share of prompts that lost their beginning, up to 1."""
MAIN = "bleu"
"""The main score where no other is asked for."""
ROUGE = ("rouge1", "rouge2", "rougeL")
RESAMPLES = 1000
"""The number of draws of the bootstrap (Koehn 2004), which is sacrebleu's own with its own seed."""


@dataclass(frozen=True, order=True)
class Text:
    """A generated text and the references that it is compared with, all on one line, the references at least one."""

    hypothesis: str
    references: tuple[str, ...]


@final
@dataclass
class TextScores(Tally[Prediction]):
    """Generated texts with their references; no score depends on their order. main: the name of the main score."""

    texts: list[Text] = field(default_factory=list)
    exact: int = 0
    cut: int = 0
    main: str = MAIN

    @property
    def rows(self) -> int:  # type: ignore[override]
        return len(self.texts)

    def add(self, outcome: Prediction) -> None:
        references = outcome.references or (outcome.label,)
        self.texts.append(Text(one_line(outcome.parsed or ""), tuple(map(one_line, references))))
        self.exact += outcome.correct
        self.cut += outcome.cut

    @classmethod
    def total(cls, tallies: Sequence[Self]) -> Self:
        texts = [text for tally in tallies for text in tally.texts]
        exact, cut = sum(tally.exact for tally in tallies), sum(tally.cut for tally in tallies)
        return cls(texts, exact, cut, tallies[0].main)

    def scores(self) -> dict[str, float]:
        """Return all scores, the main one first; of no rows they are 0."""
        names = dict.fromkeys((self.main, *NAMES))
        if not self.texts:
            return dict.fromkeys(names, 0.0)
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        found = {
            "bleu": corpus_score(BLEU(), self.texts),
            "chrf": corpus_score(CHRF(), self.texts),
            **rouge(self.texts),
            "exact_match": 100 * self.exact / self.rows,
            "cut": self.cut / self.rows,
        }
        return {name: found[name] for name in names}

    def interval(self) -> tuple[float, float] | None:
        """Return the 95% interval of BLEU over texts drawn anew; None for no texts, and for another main score."""
        if not self.texts or self.main != MAIN:
            return None
        from sacrebleu.metrics.bleu import BLEU, BLEUScore

        hypotheses, streams = as_streams(sorted(self.texts))
        score = BLEU().corpus_score(hypotheses, streams, n_bootstrap=RESAMPLES)
        assert isinstance(score, BLEUScore)
        return float(score._mean - score._ci), float(score._mean + score._ci)


def corpus_score(metric: Metric, texts: Sequence[Text]) -> float:
    hypotheses, streams = as_streams(texts)
    return float(metric.corpus_score(hypotheses, streams).score)


def as_streams(texts: Sequence[Text]) -> tuple[list[str], list[list[str]]]:
    """Return the hypotheses, and as many lists of references as a text has at most; an empty one stands for none."""
    most = max(len(text.references) for text in texts)
    filled = [[*text.references, *[""] * (most - len(text.references))] for text in texts]
    return [text.hypothesis for text in texts], [list(stream) for stream in zip(*filled, strict=True)]


def rouge(texts: Sequence[Text]) -> dict[str, float]:
    """Return the mean F-measures of the nearest references."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(ROUGE)
    found = [scorer.score_multi(text.references, text.hypothesis) for text in texts]
    return {name: 100 * math.fsum(own[name].fmeasure for own in found) / len(found) for name in ROUGE}


def one_line(text: str) -> str:
    """Return the text with one space for every run of white space: files that are scored have a text on each line."""
    return " ".join(text.split())
