"""Export a classifier to ONNX: one graph with free batch and length, its label names inside, checked on task rows."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reflora_cli.atomic import write_directory, write_file
from reflora_cli.errors import InputError, Problem
from reflora_cli.export.card import model_card, python, subject_of
from reflora_cli.merging.memory import make_plain
from reflora_cli.merging.verify import difference, refuse, tolerance
from reflora_cli.model.base import parameter_count
from reflora_cli.model.load import load_tokenizer, quiet_transformers
from reflora_cli.objectives.pick import probe_rows
from reflora_cli.objectives.rows import kept_rows
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.recipe import Recipe
from reflora_cli.restore import Restored, restore
from reflora_cli.runs import RunDirectory
from reflora_cli.tasks.base import SequenceTask

OPSET = 17
MOST_PARAMETERS = 500_000_000
"""An ONNX file, a protobuf message, cannot exceed 2 GB."""


@dataclass(frozen=True)
class OnnxReport:
    """What was written, and how far onnxruntime's logits are from the adapter model's."""

    output: str
    format: str
    inputs: list[str]
    rows: int
    largest_difference: float


class LogitsOnly(nn.Module):
    """A model that takes its inputs by place and gives its logits: what a graph has."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def export_onnx(recipe: Recipe, run: RunDirectory, output: Path) -> OnnxReport:
    """Write `model.onnx`, tokenizer and card to `output`.

    Raises InputError for a task without labels, a missing library or an existing output, VerificationError when
    onnxruntime computes something else; nothing is left at `output` then.
    """
    require_libraries()
    restored = restore(recipe, run.adapter, torch.device("cpu"))
    task, objective = restored.task, restored.objective
    if not isinstance(task, SequenceTask) or not isinstance(objective, SequenceObjective):
        remedy = "export a language model with --format gguf or safetensors"
        raise InputError(Problem("only classifiers are exported to ONNX", "--format", "onnx", remedy=remedy))
    if parameter_count(restored.base.model) > MOST_PARAMETERS:
        found = f"{parameter_count(restored.base.model):,} parameters"
        raise InputError(Problem("the model is too large for one ONNX file", found=found, expected="at most 2 GB"))
    rows = probe_rows(recipe, task, restored.base, kept_rows(recipe, run))
    before = objective.probe(rows)
    batches = [objective.inputs(rows[start : start + 16]) for start in range(0, len(rows), 16)]
    with write_directory(output) as directory:
        make_plain(restored, torch.float32)
        names = list(batches[0])
        trace(restored, names, batches[0], directory / "model.onnx")
        describe(directory / "model.onnx", restored)
        load_tokenizer(restored.base.source).save_pretrained(directory)
        card = model_card(subject_of(recipe, run), "ONNX", "onnxruntime", usage(names))
        write_file(directory / "README.md", card)
        largest = verify(directory / "model.onnx", batches, before, str(output))
    return OnnxReport(str(output), "onnx", names, len(rows), largest)


def require_libraries() -> None:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(
            Problem("the ONNX libraries are not installed", found=str(error), remedy="pip install 'reflora[onnx]'")
        ) from error
    del onnx, onnxruntime


def trace(restored: Restored, names: list[str], example: dict[str, Tensor], path: Path) -> None:
    """Write the graph of one pass, with free batch and length.

    The tracing exporter: that on torch.export cannot yet take the masks of all architectures with free lengths.
    """
    model: Any = restored.base.model
    axes = {name: {0: "batch", 1: "length"} for name in names} | {"logits": {0: "batch"}}
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), quiet_transformers(), torch.no_grad():
            warnings.simplefilter("ignore")  # of values that become constants: the check on other lengths is `verify`
            torch.onnx.export(
                LogitsOnly(model, names).eval(), tuple(example[name] for name in names), str(path), input_names=names,
                output_names=["logits"], dynamic_axes=axes, opset_version=OPSET, dynamo=False,
            )  # fmt: skip
    finally:
        logger.setLevel(level)


def describe(path: Path, restored: Restored) -> None:
    """Put the label names, the task and the base into the file's metadata."""
    import onnx

    graph, recipe = onnx.load(path), restored.recipe
    facts = {"labels": json.dumps(list(restored.base.labels)), "task": restored.task.name,
             "base_model": recipe.model.name, "max_length": str(recipe.task.max_length)}  # fmt: skip
    for key, value in facts.items():
        entry = graph.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def verify(path: Path, batches: list[dict[str, Tensor]], before: Tensor, output: str) -> float:
    """The largest logit difference on task rows, in batches of other sizes than the one that was traced."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for batch in batches[:1] for i in range(2)]
    found = [session.run(None, {k: v.numpy() for k, v in batch.items()})[0] for batch in (*batches, *rows)]
    whole = np.concatenate(found[: len(batches)])
    alone = np.concatenate(found[len(batches) :])
    # `probe` sorts by length within itself and gives the rows back in their order, as they are here.
    apart = difference(torch.cat([before, before[: len(alone)]]), torch.from_numpy(np.concatenate([whole, alone])))
    refuse(apart, tolerance(before, torch.float32), output, "the graph in onnxruntime")
    return apart.largest


def usage(names: list[str]) -> list[str]:
    """How onnxruntime runs it."""
    feed = ", ".join(f'"{name}": inputs["{name}"]' for name in names)
    return python(
        "import json",
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        'labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])',
        'inputs = AutoTokenizer.from_pretrained(".")("some text", return_tensors="np")',
        f"(logits,) = session.run(None, {{{feed}}})",
    )
