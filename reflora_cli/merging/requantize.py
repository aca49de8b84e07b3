"""Quantize merged weights to four bits again, and measure what the rounding costs."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflora_cli.console.reporter import Reporter
from reflora_cli.methods.settings import Quantization
from reflora_cli.model.auto import auto_class, load_config, load_plain
from reflora_cli.model.load import quiet_transformers
from reflora_cli.model.precision import Compute
from reflora_cli.model.quantize import bitsandbytes_config, skeleton, unquantized
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.tasks.base import Task


def requantize(
    recipe: Recipe, task: Task, directory: Path, dtype: torch.dtype, rows: list[Any], reporter: Reporter
) -> Tensor:
    """Replace the weights in `directory` by an NF4 checkpoint of bitsandbytes.

    Returns the logits of that checkpoint, as loaded back, on `rows`.
    """
    reporter.note("quantizing the merged weights again")
    kind = kind_of(task)
    section = ModelSection(name=str(directory), quantization=Quantization.NF4)
    with quiet_transformers(), tempfile.TemporaryDirectory(dir=directory, prefix=".requantized-") as requantized:
        skipped = unquantized(skeleton(auto_class(kind.auto_class).from_config, load_config(directory)))
        model = load_plain(
            kind.auto_class,
            directory,
            dtype,
            device_map={"": "cpu"},
            quantization_config=bitsandbytes_config(section, skipped, dtype),
        )
        model.save_pretrained(requantized, safe_serialization=True)
        for file in directory.glob("model*.safetensors*"):
            file.unlink()
        for file in Path(requantized).iterdir():
            shutil.move(file, directory / file.name)
    base = kind.load_base(ModelSection(name=str(directory)), None, dtype, seed=0)
    base.model.eval()
    return kind.make_objective(recipe, base, Compute(torch.device("cpu"), dtype)).probe(rows)
