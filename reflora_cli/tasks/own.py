"""Make a task from what a recipe says of the user's own texts and labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reflora_cli.ground.errors import InputError, Problem, near
from reflora_cli.tasks.base import Metric, OwnLabels, PromptTask, SequenceTask
from reflora_cli.tasks.metrics import (
    accuracy,
    exact_match,
    macro_f1,
    mae,
    matthews,
    micro_f1,
    pearson,
    rmse,
    spearman,
)
from reflora_cli.tasks.nlg import TextColumns, generation_task
from reflora_cli.tasks.text_scores import MAIN, NAMES
from reflora_cli.tasks.wording import Wording

VALIDATION = "validation"
"""The split that is scored in training: rows of a file of that name, or those that are held out."""
METRICS: Mapping[str, Mapping[str, Metric]] = {
    "classification": {"accuracy": accuracy, "macro_f1": macro_f1, "matthews": matthews},
    "regression": {"pearson": pearson, "spearman": spearman, "mae": mae, "rmse": rmse},
    "multilabel": {"micro_f1": micro_f1, "macro_f1": macro_f1, "exact_match": exact_match},
}
"""The metrics of each kind of task, the one by which the best adapter is chosen first."""


def own_task(
    kind: str, name: str, text: Sequence[str], labels: Sequence[str], own: OwnLabels, metric: str | None
) -> SequenceTask:
    """Return a task of one of the kinds in `METRICS`. labels: the meanings of the outputs; none for a regression.

    metric: the main one, if it is not the kind's first. Raises InputError for one that the task does not have.
    """
    metrics = {key: one for key, one in METRICS[kind].items() if key != "matthews" or len(labels) == 2}
    if metric is not None:
        if metric not in metrics:
            what = f"a task of kind {kind} with {len(labels)} labels is not scored so"
            if kind == "regression":
                what = "a regression is not scored so"
            raise InputError(Problem(what, "task.metric", repr(metric), ", ".join(metrics), near(metric, metrics)))
        metrics = {metric: metrics[metric], **metrics}
    return SequenceTask(
        name=name,
        source=None,
        text=tuple(text),
        metrics=metrics,
        label_names=tuple(labels),
        label=own.columns[0],
        evaluation=(VALIDATION,),
        several=kind == "multilabel",
        own=own,
    )


def own_generation(
    name: str, wording: Wording, column: str, metric: str | None, held_out: int | str | None
) -> PromptTask:
    """Return a task of writing texts. column: that of the right text of a row, or of a list of right texts.

    metric: the main one, if it is not BLEU. Raises InputError for one that texts do not have.
    """
    metrics = [one for one in NAMES if one != "cut"]
    if metric is not None and metric not in metrics:
        what = "generated texts are not scored so"
        raise InputError(Problem(what, "task.metric", repr(metric), ", ".join(metrics), near(metric, metrics)))
    return generation_task(name, wording, TextColumns(column, ""), metric or MAIN, held_out)
