"""Measure what other readers of LoRA make of an adapter for which training has moved a quantized base.

Some starts take a part s B_0 A_0 out of the frozen weight. Where that is quantized, training computes with the rest
quantized again, Q(W - s B_0 A_0) + s B A, and a merge keeps exactly that. PEFT and llama.cpp know the base as it is and
add the whole adapter to it: W + s (B A - B_0 A_0). The two differ by the rounding of one quantization.
"""

from __future__ import annotations

import gc

import torch

from reflora_cli.adapter_io.files import AdapterFiles
from reflora_cli.adapter_io.lora import OFFSET_RANKS, without_offset
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.merging.verify import Difference, difference
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.restore import Restored, kept_rows, with_adapter

CPU = torch.device("cpu")


def difference_unmoved(recipe: Recipe, run: RunDirectory, files: AdapterFiles) -> Difference | None:
    """Return how far the adapter on the quantized base as it is, unmoved, is from the model that was trained.

    It is measured on the rows that the run has kept. files: its adapter. None if no quantized base was moved: then
    nothing differs.
    """
    if not files.record.get(OFFSET_RANKS):
        return None
    restored = with_adapter(recipe, files, CPU)
    if not is_quantized(restored):
        return None
    rows = kind_of(restored.task).probe_rows(recipe, restored.base, kept_rows(recipe, run))
    trained = restored.objective.probe(rows)
    del restored  # two models are never in memory together
    gc.collect()
    return difference(trained, with_adapter(recipe, without_offset(files), CPU).objective.probe(rows))


def restored_for_peft(recipe: Recipe, files: AdapterFiles) -> Restored:
    """Return the model with which PEFT's logits must agree: the trained one, on an unmoved base if it is quantized."""
    restored = with_adapter(recipe, files, CPU)
    if not (files.record.get(OFFSET_RANKS) and is_quantized(restored)):
        return restored
    del restored
    gc.collect()
    return with_adapter(recipe, without_offset(files), CPU)


def is_quantized(restored: Restored) -> bool:
    """Return whether an adapted module has a quantized weight."""
    assert restored.adapted is not None
    return any(isinstance(layer.frozen, QuantizedWeight) for layer in restored.adapted.layers.values())


def unmoved_lines(apart: Difference | None) -> list[str]:
    """Return the lines of a card that tell of such a difference."""
    if apart is None:
        return []
    return [
        "",
        "Training moved a part of the quantized base into the adapter and quantized the rest again. On the base "
        "quantized as it is, this adapter differs from what was trained and scored by one rounding: logits by up "
        f"to {apart.largest:.3g}, {apart.mean:.3g} in the mean, and {apart.changed_predictions} of {apart.rows} "
        "outputs on rows of the task have another largest logit. The merged model is exactly what was trained "
        "(`reflora merge RUN`).",
    ]
