"""The model card that goes with every export."""

from __future__ import annotations

from typing import Any

from reflora_cli import __version__
from reflora_cli.recipe_file import dump_recipe
from reflora_cli.restore import Restored
from reflora_cli.tasks.base import SequenceTask, Task

SOURCES = {
    "lora": "Hu et al. 2021, LoRA, arXiv 2106.09685",
    "dora": "Liu et al. 2024, DoRA, arXiv 2402.09353",
    "reflora": "Zhang, Li, Giannakis 2025, RefLoRA, arXiv 2505.18877",
    "reflora-s": "Zhang, Li, Giannakis 2025, RefLoRA, arXiv 2505.18877",
}
"""The paper of each layer and update rule."""


def adapter_card(restored: Restored, results: dict[str, Any] | None) -> str:
    """A README for an adapter directory: base, method, data, scores, how to load it."""
    recipe, task, source = restored.recipe, restored.task, restored.base.source
    method = recipe.method
    sources = [SOURCES[axis] for axis in (str(method.layer), str(method.update)) if axis in SOURCES]
    lines = [
        "---",
        *([] if source.is_local else [f"base_model: {source.name}"]),
        "library_name: peft",
        f"tags: [{', '.join(dict.fromkeys(('lora', str(method.layer), method.name)))}]",
        "---",
        "",
        f"# {task.name} adapter for {recipe.model.name}",
        "",
        f"Trained by reflora {__version__} with {method.label}, rank {method.rank}, alpha {method.alpha:g}, "
        f"seed {recipe.train.seed}.",
        *(f"Source: {source}." for source in sources),
        "",
        *score_lines(results),
        "## Load it",
        "",
        "```python",
        "from peft import PeftModel",
        *loading_lines(task, source.location),
        'model = PeftModel.from_pretrained(base, "path/to/this/directory")',
        "```",
        "",
        "## Recipe",
        "",
        "```yaml",
        dump_recipe(recipe).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def loading_lines(task: Task, location: str) -> list[str]:
    """Python that loads the base model."""
    if isinstance(task, SequenceTask):
        kind, arguments = "AutoModelForSequenceClassification", f", num_labels={max(1, len(task.label_names))}"
    else:
        kind, arguments = "AutoModelForCausalLM", ""
    return [f"from transformers import {kind}", "", f"base = {kind}.from_pretrained({location!r}{arguments})"]


def score_lines(results: dict[str, Any] | None) -> list[str]:
    """A table of the selected adapter's scores."""
    if not results or not results.get("scores"):
        return []
    rows = [
        f"| {split} | {name} | {value:.4f} |"
        for split, scores in results["scores"].items()
        for name, value in scores.items()
    ]
    head = [f"## Scores after step {results['selected_step']}", "", "| split | metric | value |", "|---|---|---|"]
    return [*head, *rows, ""]
