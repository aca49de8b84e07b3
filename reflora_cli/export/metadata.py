"""Write the front matter of a model card: what the Hugging Face hub reads of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reflora_cli.export.public import hub_id
from reflora_cli.model.sources import Source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.base import HubSource, Task

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

HUB_METRICS = {"matthews": "matthews_correlation", "pearson": "pearsonr", "spearman": "spearmanr"}
"""The hub's names of metrics that it calls otherwise."""


@dataclass(frozen=True)
class Published:
    """What front matter is about. scores: metrics by split, or by task where a model has several."""

    recipe: Recipe
    task: Task
    source: Source
    scores: Mapping[str, Mapping[str, float]]


def front_matter(published: Published, library: str) -> str:
    """Return the YAML between the lines of three dashes, in the hub's schema. library: the one that loads the model.

    Language and licence are left out: no recipe knows them.
    """
    from huggingface_hub import ModelCardData

    method = published.recipe.method
    tags = (method.layer.peft_type.lower(), str(method.layer), method.name, "reflora")
    results = list(results_of(published))
    data = ModelCardData(
        base_model=hub_id(published.source),
        library_name=library,
        pipeline_tag=kind_of(published.task).pipeline_tag,
        datasets=hub_data(published) or None,
        tags=list(dict.fromkeys(tags)),
        model_name=f"{published.task.name}, {method.label}" if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml()).strip()


def hub_data(published: Published) -> list[str]:
    """Return the data sets of the hub from which the rows came."""
    if published.recipe.task.data != "hub":
        return []
    sources = [part.source for part in published.task.with_rows]
    return list(dict.fromkeys(source.repository for source in sources if isinstance(source, HubSource)))


def results_of(published: Published) -> Iterator[EvalResult]:
    """Yield every finite score of the kept adapter as the hub's schema has it."""
    from huggingface_hub import EvalResult

    kind, parts = kind_of(published.task), {part.short: part for part in published.task.with_rows}
    for name, scores in published.scores.items():
        part = parts.get(name) if len(parts) > 1 else next(iter(parts.values()))
        source = part.source if part is not None and published.recipe.task.data == "hub" else None
        on_hub = source if isinstance(source, HubSource) else None
        for metric, value in scores.items():
            if math.isfinite(value):
                yield EvalResult(
                    task_type=kind.pipeline_tag,
                    dataset_type=on_hub.repository if on_hub else (part or published.task).name,
                    dataset_name=(part or published.task).name,
                    dataset_config=on_hub.config if on_hub else None,
                    dataset_split=part.evaluation[0] if part is not None and name in parts else name,
                    metric_type=HUB_METRICS.get(metric, metric),
                    metric_name=metric,
                    metric_value=float(value),
                )
