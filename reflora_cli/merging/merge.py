"""Merge an adapter into its base: write a plain transformers directory, and verify it before it gets its name.

Tensors are made from the adapter model in memory and written one at a time; sums are float32 with one cast at the end.
The merged model is then loaded back with plain transformers, and its logits are compared with the adapter model's on
rows of the task. The two models are never in memory together.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from reflora_cli.adapter_io.keys import saved_modules
from reflora_cli.adapter_io.tensor_files import ShardedWriter, tensor_places
from reflora_cli.adapters.ties import is_inside
from reflora_cli.console.reporter import SILENT, Reporter, Work, counted
from reflora_cli.ground.atomic import write_directory, write_file, write_json
from reflora_cli.ground.errors import InputError, Problem, VerificationError
from reflora_cli.merging.memory import write_from_memory
from reflora_cli.merging.requantize import requantize
from reflora_cli.merging.tensors import MergedTensors, merged_tensors, named_alike, tied_names
from reflora_cli.merging.verify import difference, refuse, summary, tolerance
from reflora_cli.methods.settings import BaseWeights, Dtype, Quantization
from reflora_cli.model.chat_template import end_tokens, served_tokenizer
from reflora_cli.model.precision import DTYPES, Compute, resolve_dtype
from reflora_cli.model.sources import Source, find_source, local_directory
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.runs.restore import Restored, restore, trained_dtype
from reflora_cli.tasks.base import Task

CPU = torch.device("cpu")
SHARD_SIZE = 5_000_000_000
"""The most bytes in one file of weights, as in transformers."""


@dataclass(frozen=True)
class MergeRequest:
    """What to write.

    base_weights: `dequantized` for the weights that training saw, quantized and cast; `original` for the checkpoint's
    own. dtype: the dtype of the written weights, by default that of training. requantize: write a bitsandbytes
    checkpoint instead. card: makes the text of the README.md beside the weights, from the directory that holds them.
    rows: the file in which the run keeps rows to check with; without it they are read from the recipe's data.
    """

    recipe: Recipe
    adapter: Path
    output: Path
    dtype: Dtype | None = None
    base_weights: BaseWeights = BaseWeights.DEQUANTIZED
    requantize: Literal[Quantization.NF4] | None = None
    card: Callable[[Path], str] | None = None
    rows: Path | None = None


@dataclass(frozen=True)
class MergeReport:
    """How far the merged model, as loaded back from disk, is from the adapter model on the same base weights.

    quantization_difference: how far it is from the adapter model as it was trained, where that had another base in
    memory. rounding_difference: how far the merged weights are from themselves after they are quantized again.
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


def merge(request: MergeRequest, reporter: Reporter = SILENT) -> MergeReport:
    """Write the merged model to `request.output`. reporter: what is shown meanwhile.

    Raises InputError for wrong input or an existing output, VerificationError when the merged model computes something
    else; in both cases nothing is left at the output.
    """
    refuse_unmerged(request.recipe)
    recipe = merged_recipe(request)
    with write_directory(request.output) as directory:
        trained = probe(request.recipe, request) if recipe != request.recipe else None
        restored = restore(recipe, request.adapter, CPU)
        rows = kind_of(restored.task).probe_rows(recipe, restored.base, request.rows)
        before = restored.objective.probe(rows)
        dtype = DTYPES[request.dtype] if request.dtype else dtype_of_training(request.recipe, restored)
        streamed, task = write_merged(restored, dtype, directory, reporter), restored.task
        seen = restored.compute.dtype
        del restored
        gc.collect()
        reporter.note(f"loading the merged model back, to compare it on {len(rows):,} rows")
        after = probe_merged(recipe, task, directory, dtype, rows)
        found, accepted = difference(before, after), tolerance(before, dtype, seen)
        refuse(found, accepted, str(request.output))
        wanted = request.requantize is not None
        rounded = requantize(recipe, task, directory, dtype, rows, reporter) if wanted else None
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
            rounding_difference=None if rounded is None else summary(difference(after, rounded)),
        )
        # The directory may be published: its file of figures names it, and not where it lies.
        write_json(directory / "merge.json", {**asdict(report), "output": request.output.name})
        if request.card:
            write_file(directory / "README.md", request.card(directory))
    return report


def refuse_unmerged(recipe: Recipe) -> None:
    """Raises InputError for a layer that no plain weights replace."""
    layer = recipe.method.layer
    if layer.not_merged:
        what, remedy = f"a run with method.layer={layer} cannot be merged", layer.way_out
        raise InputError(Problem(what, "method.layer", layer.not_merged, remedy=remedy))


def merged_recipe(request: MergeRequest) -> Recipe:
    """Return the recipe of the adapter model that the merged one must equal: the run's, or one on the unchanged
    checkpoint.
    """
    section = request.recipe.model
    if request.base_weights is BaseWeights.DEQUANTIZED:
        return request.recipe
    own = own_dtype(find_source(section.name, section.revision))
    original = section.model_copy(update={"quantization": Quantization.NONE, "dtype": Dtype(own)})
    return request.recipe.model_copy(update={"model": original})


def own_dtype(source: Source) -> str:
    """Return the dtype that holds every weight of a checkpoint exactly: the one that all have, or else float32."""
    kinds = {place.dtype for place in tensor_places(local_directory(source)).values() if place.dtype.is_floating_point}
    return next((name for name, dtype in DTYPES.items() if kinds == {dtype}), "float32")


def dtype_of_training(recipe: Recipe, restored: Restored) -> torch.dtype:
    return resolve_dtype(trained_dtype(restored.files, recipe.model.dtype), CPU)


def probe(recipe: Recipe, request: MergeRequest) -> Tensor:
    """Return the logits of a recipe's adapter model on the request's rows."""
    restored = restore(recipe, request.adapter, CPU)
    return restored.objective.probe(kind_of(restored.task).probe_rows(recipe, restored.base, request.rows))


def probe_merged(recipe: Recipe, task: Task, directory: Path, dtype: torch.dtype, rows: list[Any]) -> Tensor:
    """Return the logits of the merged model, loaded with plain transformers. Raises VerificationError if it is
    incomplete.
    """
    try:
        merged = kind_of(task).load_base(ModelSection(name=str(directory)), None, dtype, seed=0)
    except InputError as error:
        raise VerificationError(*error.problems) from error
    if merged.fresh:
        problem = Problem("the merged model lacks weights", str(directory), found=", ".join(merged.fresh))
        raise VerificationError(problem)
    merged.model.eval()
    return kind_of(task).make_objective(recipe, merged, Compute(CPU, dtype)).probe(rows)


def write_merged(restored: Restored, dtype: torch.dtype, directory: Path, reporter: Reporter) -> bool:
    """Write weights, config, tokenizer and generation config. Returns whether tensors were made and written one at a
    time.
    """
    assert restored.adapted is not None
    model = restored.base.model
    tied = tied_names(model)
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.eos_token_id = written_ends(restored)
    tensors = merged_tensors(model, restored.adapted, dtype)
    streamed = keeps_names(restored, tensors, tied)
    if streamed:
        with reporter.counting(Work("writing the merged model", len(tensors.names), "tensors")) as tell:
            ShardedWriter(directory, tensors.announced(), SHARD_SIZE).write(counted(tensors, tell))
        model.config.dtype, model.config.architectures = dtype, [type(model).__name__]
        model.config.save_pretrained(directory)
        if model.can_generate():
            model.generation_config.save_pretrained(directory)
    else:
        write_from_memory(restored, dtype, directory, reporter)
    served_tokenizer(restored.base, restored.task).save_pretrained(directory)
    return streamed


def written_ends(restored: Restored) -> int | list[int] | None:
    """Return the tokens that end what the merged model writes, as the base's generation config spells them unless
    training ended answers with others.
    """
    own: int | list[int] | None = restored.base.model.generation_config.eos_token_id
    ends = end_tokens(restored.base, restored.task)
    return own if not restored.task.parts or ends == (own if isinstance(own, list) else [own]) else ends


def keeps_names(restored: Restored, tensors: MergedTensors, tied: Mapping[str, str]) -> bool:
    """Whether the base's files name its tensors as the model does; tensors of the adapter always have the model's
    names.
    """
    assert restored.files is not None
    model = restored.base.model
    saved = saved_modules(model, restored.files.config)
    names = {name: shape for name, shape in tensors.names.items() if name not in tied and not is_inside(name, saved)}
    return named_alike(names, tensor_places(local_directory(restored.base.source)), model.base_model_prefix)
