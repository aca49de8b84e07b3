"""Fold an adapter into its base: a standalone transformers directory, verified before it is shown.

All sums are float32 with one cast at the end. Before the directory gets its name, the merged model is loaded back with
plain transformers and its logits are compared with the adapter model's on rows of the task.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.adapters.inject import Adapted
from reflora_cli.errors import Problem, VerificationError
from reflora_cli.model.load import load_tokenizer
from reflora_cli.model.pick import load_base
from reflora_cli.model.precision import DTYPES, Compute
from reflora_cli.objectives.pick import make_objective, probe_rows
from reflora_cli.recipe import ModelSection, Recipe
from reflora_cli.restore import Restored, restore
from reflora_cli.runs import write_directory, write_json

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}
"""Largest accepted logit difference by dtype of the written weights, as a share of the largest logit (at least 1).

float32 only reorders sums. The half precisions round every weight once, to 2^-11 and 2^-8 of its size.
"""


@dataclass(frozen=True)
class MergeReport:
    """How far the merged model, as loaded back from disk, is from the adapter model."""

    output: str
    dtype: str
    rows: int
    largest_difference: float
    mean_difference: float
    changed_predictions: int
    tolerance: float


def merge(recipe: Recipe, adapter: Path, output: Path, dtype_name: str | None) -> MergeReport:
    """Write the merged model to `output`. dtype_name: of the written weights, by default that of the base in training.

    Raises InputError for wrong input or an existing output, VerificationError when the merged model computes something
    else; in both cases nothing is left at `output`.
    """
    restored = restore(recipe, adapter, torch.device("cpu"))
    dtype = DTYPES[dtype_name] if dtype_name else restored.compute.dtype
    rows = probe_rows(recipe, restored.task, restored.base)
    with write_directory(output) as directory:
        before = restored.objective.probe(rows)
        write_merged(restored, dtype, directory)
        report = compare(restored, rows, before, directory, output, dtype)
        write_json(directory / "merge.json", asdict(report))
    return report


def write_merged(restored: Restored, dtype: torch.dtype, directory: Path) -> None:
    """Turn the restored model into a plain one in `dtype` and save it with its tokenizer."""
    assert restored.adapted is not None
    model = restored.base.model
    for name, module in merged_modules(restored.adapted, dtype).items():
        model.set_submodule(name, module)
    nn.Module.to(model, dtype)
    model.config.dtype = dtype
    untie(model)
    model.save_pretrained(directory, safe_serialization=True)
    # A tokenizer that has been used saves the truncation of its last call.
    load_tokenizer(restored.base.source).save_pretrained(directory)


def untie(model: Any) -> None:
    """Let the config say it when a head that was tied to the embedding now has a weight of its own."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is not embedding.weight:
        model.config.tie_word_embeddings = False


@torch.no_grad()
def merged_modules(adapted: Adapted, dtype: torch.dtype) -> dict[str, nn.Module]:
    """For every adapted module the plain one that computes the same, its weight summed in float32 and cast once."""
    return {name: layer.frozen.thaw(layer.merged().to(dtype)) for name, layer in adapted.layers.items()}


def compare(
    restored: Restored, rows: list[Any], before: Tensor, directory: Path, output: Path, dtype: torch.dtype
) -> MergeReport:
    """Load the directory with plain transformers and compare logits. Raises VerificationError above tolerance."""
    merged = load_base(ModelSection(name=str(directory)), None, restored.task, dtype, seed=0)
    if merged.fresh:
        problem = Problem("the merged model lacks weights", str(output), found=", ".join(merged.fresh))
        raise VerificationError(problem)
    merged.model.eval()
    after = make_objective(restored.recipe, restored.task, merged, Compute(torch.device("cpu"), dtype)).probe(rows)
    difference = (after - before).abs()
    tolerance = TOLERANCE[dtype] * max(1.0, float(before.abs().max()))
    report = MergeReport(
        output=str(output),
        dtype=str(dtype).removeprefix("torch."),
        rows=len(rows),
        largest_difference=float(difference.max()),
        mean_difference=float(difference.mean()),
        changed_predictions=int((after.argmax(dim=1) != before.argmax(dim=1)).sum()),
        tolerance=tolerance,
    )
    if not report.largest_difference <= tolerance:
        problem = Problem(
            "the merged model does not compute what the adapter model computes; nothing was written",
            where=str(output),
            found=f"largest logit difference {report.largest_difference:.2e} on {report.rows} rows",
            expected=f"at most {tolerance:.2e}",
        )
        raise VerificationError(problem)
    return report
