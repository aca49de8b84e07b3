"""The nine GLUE tasks (Wang et al. 2018, arXiv 1804.07461), with the metrics of the benchmark.

Columns, splits and class ids are those of the hub's `nyu-mll/glue`; the hub's test labels are hidden (-1).
The first metric is the one that papers' tables show.
"""

from __future__ import annotations

from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.metrics import accuracy, f1, matthews, pearson, spearman
from reflora_cli.tasks.sources import HubSource


def hub(config: str) -> HubSource:
    return HubSource("nyu-mll/glue", config)


SENTENCES = ("sentence1", "sentence2")

# Is the sentence acceptable English?
COLA = SequenceTask(
    name="glue/cola",
    source=hub("cola"),
    text=("sentence",),
    label_names=("unacceptable", "acceptable"),
    metrics={"matthews": matthews},
)

# Sentiment of a movie review; training rows are phrases too.
SST2 = SequenceTask(
    name="glue/sst2",
    source=hub("sst2"),
    text=("sentence",),
    label_names=("negative", "positive"),
    metrics={"accuracy": accuracy},
)

# Do two sentences of the news say the same?
MRPC = SequenceTask(
    name="glue/mrpc",
    source=hub("mrpc"),
    text=SENTENCES,
    label_names=("not_equivalent", "equivalent"),
    metrics={"accuracy": accuracy, "f1": f1},
)

# How alike are two sentences, from 0 to 5? Regression.
STSB = SequenceTask(
    name="glue/stsb",
    source=hub("stsb"),
    text=SENTENCES,
    label_range=(0.0, 5.0),
    metrics={"pearson": pearson, "spearman": spearman},
)

# Do two questions ask the same?
QQP = SequenceTask(
    name="glue/qqp",
    source=hub("qqp"),
    text=("question1", "question2"),
    label_names=("not_duplicate", "duplicate"),
    metrics={"accuracy": accuracy, "f1": f1},
)

# Does the premise entail the hypothesis? Matched: genres seen in training; mismatched: others.
MNLI = SequenceTask(
    name="glue/mnli",
    source=hub("mnli"),
    text=("premise", "hypothesis"),
    label_names=("entailment", "neutral", "contradiction"),
    evaluation=("validation_matched", "validation_mismatched"),
    metrics={"accuracy": accuracy},
)

# Does the sentence answer the question?
QNLI = SequenceTask(
    name="glue/qnli",
    source=hub("qnli"),
    text=("question", "sentence"),
    label_names=("entailment", "not_entailment"),
    metrics={"accuracy": accuracy},
)

# Does the first text entail the second?
RTE = SequenceTask(
    name="glue/rte",
    source=hub("rte"),
    text=SENTENCES,
    label_names=("entailment", "not_entailment"),
    metrics={"accuracy": accuracy},
)

# Is the pronoun resolved rightly? Adversarial by design: the majority class is hard to beat.
WNLI = SequenceTask(
    name="glue/wnli",
    source=hub("wnli"),
    text=SENTENCES,
    label_names=("not_entailment", "entailment"),
    metrics={"accuracy": accuracy},
)

TASKS = (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE, WNLI)
