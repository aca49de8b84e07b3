"""Fold an adapter into its base: a standalone transformers directory, verified before it is shown.

Tensors go from disk to disk one at a time; sums are float32 with one cast at the end. Before the directory gets its
name, the merged model is loaded back with plain transformers and its logits are compared with the adapter model's on
rows of the task. The two are never in memory together.
"""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from reflora_cli.adapter_files import AdapterFiles
from reflora_cli.atomic import write_directory, write_file, write_json
from reflora_cli.errors import InputError, Problem, VerificationError
from reflora_cli.merging.memory import write_from_memory
from reflora_cli.merging.plan import SHARD_SIZE, MergePlan, make_plan
from reflora_cli.merging.requantize import requantize
from reflora_cli.merging.verify import Difference, difference, refuse, tolerance
from reflora_cli.model.load import load_tokenizer, quiet_transformers
from reflora_cli.model.pick import load_base
from reflora_cli.model.precision import DTYPES, Compute
from reflora_cli.model.quantize import skeleton
from reflora_cli.objectives.pick import make_objective, probe_rows
from reflora_cli.recipe import ModelSection, Quantization, Recipe
from reflora_cli.restore import Restored, restore
from reflora_cli.sources import local_directory
from reflora_cli.tasks.base import Task
from reflora_cli.tensor_files import ShardedWriter

CPU = torch.device("cpu")


@dataclass(frozen=True)
class MergeRequest:
    """What to write. base_weights: those that training saw, quantized and cast as they were, or the checkpoint's own.

    dtype: of the written weights, by default that of training. requantize: write a bitsandbytes checkpoint instead.
    card: the README.md beside the weights.
    """

    recipe: Recipe
    adapter: Path
    output: Path
    dtype: str | None = None
    base_weights: Literal["dequantized", "original"] = "dequantized"
    requantize: Literal["nf4"] | None = None
    card: str = ""


@dataclass(frozen=True)
class MergeReport:
    """How far the merged model, as loaded back from disk, is from the adapter model on the same base weights.

    quantization_difference: from the adapter model as it was trained, where that had another base in memory.
    rounding_difference: what packing the merged weights again cost.
    """

    output: str
    dtype: str
    base_weights: str
    rows: int
    largest_difference: float
    mean_difference: float
    changed_predictions: int
    changed_rate: float
    tolerance: float
    streamed: bool
    quantization_difference: dict[str, float] | None = None
    rounding_difference: dict[str, float] | None = None


def merge(request: MergeRequest) -> MergeReport:
    """Write the merged model to `request.output`.

    Raises InputError for wrong input or an existing output, VerificationError when the merged model computes something
    else; in both cases nothing is left at the output.
    """
    recipe = merged_recipe(request)
    with write_directory(request.output) as directory:
        trained = probe(request.recipe, request) if recipe != request.recipe else None
        restored = restore(recipe, request.adapter, CPU)
        rows = probe_rows(recipe, restored.task, restored.base)
        before = restored.objective.probe(rows)
        dtype = DTYPES[request.dtype] if request.dtype else restored.compute.dtype
        streamed, task = write_merged(restored, request, dtype, directory), restored.task
        seen = restored.compute.dtype
        del restored
        gc.collect()
        after = probe_merged(recipe, task, directory, dtype, rows)
        found, accepted = difference(before, after), tolerance(before, dtype, seen)
        refuse(found, accepted, str(request.output))
        report = MergeReport(
            output=str(request.output),
            dtype=str(dtype).removeprefix("torch."),
            base_weights=request.base_weights,
            rows=len(rows),
            largest_difference=found.largest,
            mean_difference=found.mean,
            changed_predictions=found.changed_predictions,
            changed_rate=found.changed_rate,
            tolerance=accepted,
            streamed=streamed,
            quantization_difference=None if trained is None else summary(difference(trained, after)),
            rounding_difference=None
            if request.requantize is None
            else summary(difference(after, requantize(recipe, task, directory, dtype, rows))),
        )
        write_json(directory / "merge.json", asdict(report))
        if request.card:
            write_file(directory / "README.md", request.card)
    return report


def merged_recipe(request: MergeRequest) -> Recipe:
    """The recipe of the adapter model that the merged one must equal: that of training, or without quantization."""
    if request.base_weights == "dequantized" or request.recipe.model.quantization is Quantization.NONE:
        return request.recipe
    section = request.recipe.model.model_copy(update={"quantization": Quantization.NONE})
    return request.recipe.model_copy(update={"model": section})


def probe(recipe: Recipe, request: MergeRequest) -> Tensor:
    """Logits of the adapter model of a recipe."""
    restored = restore(recipe, request.adapter, CPU)
    return restored.objective.probe(probe_rows(recipe, restored.task, restored.base))


def probe_merged(recipe: Recipe, task: Task, directory: Path, dtype: torch.dtype, rows: list[Any]) -> Tensor:
    """Logits of the merged model, loaded with plain transformers. Raises VerificationError when it is incomplete."""
    try:
        merged = load_base(ModelSection(name=str(directory)), None, task, dtype, seed=0)
    except InputError as error:
        raise VerificationError(*error.problems) from error
    if merged.fresh:
        problem = Problem("the merged model lacks weights", str(directory), found=", ".join(merged.fresh))
        raise VerificationError(problem)
    merged.model.eval()
    return make_objective(recipe, task, merged, Compute(CPU, dtype)).probe(rows)


def write_merged(restored: Restored, request: MergeRequest, dtype: torch.dtype, directory: Path) -> bool:
    """Write weights, config, tokenizer and generation config; whether the weights went from disk to disk."""
    assert restored.files is not None
    model, source = restored.base.model, restored.base.source
    plan = plan_of(restored, restored.files, request)
    if plan is None:
        write_from_memory(restored, dtype, directory)
    else:
        config, generation = model.config, model.generation_config if model.can_generate() else None
        nn.Module.to(model, "meta")  # its weights are not needed any more
        gc.collect()
        write_streamed(plan, dtype, directory)
        config.dtype, config.architectures = dtype, [type(model).__name__]
        if plan.unties:
            config.get_text_config(decoder=True).tie_word_embeddings = False
            config.tie_word_embeddings = False
        config.save_pretrained(directory)
        if generation is not None:
            generation.save_pretrained(directory)
    # A tokenizer that has been used saves the truncation of its last call.
    load_tokenizer(source).save_pretrained(directory)
    return plan is not None


def plan_of(restored: Restored, files: AdapterFiles, request: MergeRequest) -> MergePlan | None:
    """The plan of a merge from disk to disk; None where only transformers can read the base's files."""
    model = restored.base.model
    with quiet_transformers():
        plain = skeleton(type(model), model.config)
    seen = restored.compute.dtype if request.base_weights == "dequantized" else None
    return make_plan(plain, restored.recipe.model, files, local_directory(restored.base.source), seen)


def write_streamed(plan: MergePlan, dtype: torch.dtype, directory: Path, shard_size: int = SHARD_SIZE) -> None:
    """The merged weights, one tensor in memory at a time."""
    ShardedWriter(directory, plan.announced(dtype), shard_size).write(plan.tensors(dtype))


def summary(found: Difference) -> dict[str, float]:
    return {"largest": found.largest, "mean": found.mean, "changed_rate": found.changed_rate}
