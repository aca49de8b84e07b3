"""Export a classifier to ONNX: one graph, label names inside, checked on batches of many shapes and on task rows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reflora_cli.console.reporter import SILENT, Reporter, Tell, Work
from reflora_cli.export.card import model_card, subject_of
from reflora_cli.export.onnx_graph import Graph, Session, make_graph
from reflora_cli.export.public import public_name
from reflora_cli.export.usage import python
from reflora_cli.ground.atomic import write_directory, write_file
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.extras import EXTRAS
from reflora_cli.merging.memory import make_plain
from reflora_cli.merging.verify import difference, refuse, tolerance
from reflora_cli.model.base import parameter_count
from reflora_cli.model.load import load_tokenizer
from reflora_cli.objectives.pick import kind_of
from reflora_cli.objectives.sequence import SequenceObjective
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.restore import Restored, kept_rows, restore
from reflora_cli.tasks.base import SequenceTask

MOST_PARAMETERS = 500_000_000
"""The most parameters of a model; an ONNX file, a protobuf message, cannot exceed 2 GB."""


@dataclass(frozen=True)
class OnnxReport:
    """The report of an exported graph, with the distance of onnxruntime's logits from the adapter model's.

    length: the length of rows, `free` or a number of tokens to which they are padded.
    """

    output: str
    format: str
    inputs: list[str]
    length: str
    rows: int
    largest_difference: float


def export_onnx(recipe: Recipe, run: RunDirectory, output: Path, reporter: Reporter = SILENT) -> OnnxReport:
    """Write `model.onnx`, tokenizer and card to `output`. reporter: what is shown meanwhile.

    Raises InputError for a task without labels, a missing library, an existing output, or an architecture of which no
    graph computes the same, VerificationError when the graph is not the adapter's; nothing is left at `output` then.
    """
    EXTRAS["onnx"].require()
    restored = restore(recipe, run.adapter, torch.device("cpu"))
    objective = restored.objective
    if not isinstance(objective, SequenceObjective):
        remedy = "export a language model with --format gguf or safetensors"
        raise InputError(Problem("only classifiers are exported to ONNX", "--format", "onnx", remedy=remedy))
    if parameter_count(restored.base.model) > MOST_PARAMETERS:
        found = f"{parameter_count(restored.base.model):,} parameters"
        raise InputError(Problem("the model is too large for one ONNX file", found=found, expected="at most 2 GB"))
    rows = kind_of(restored.task).probe_rows(recipe, restored.base, kept_rows(recipe, run))
    before = objective.probe(rows)
    with write_directory(output) as directory:
        make_plain(restored, torch.float32, reporter)
        reporter.note("tracing the graph, and comparing it on batches of many shapes")
        graph = make_graph(objective, rows, recipe.task.max_length, directory / "model.onnx")
        describe(graph, restored)
        with reporter.counting(Work("comparing the graph", len(rows))) as tell:
            after = logits_of_rows(graph, objective, rows, tell)
        accepted = tolerance(before, torch.float32, objective.compute.dtype)
        refuse(apart := difference(before, after), accepted, str(output), "the graph in onnxruntime")
        load_tokenizer(restored.base.source).save_pretrained(directory)
        card = model_card(
            subject_of(recipe, run), "ONNX", "onnxruntime", usage(graph, objective.task, recipe.task.max_length)
        )
        write_file(directory / "README.md", card)
    return OnnxReport(
        str(output),
        "onnx",
        list(graph.inputs),
        length_of(graph),
        len(rows),
        max(apart.largest, graph.largest_difference),
    )


def length_of(graph: Graph) -> str:
    return "free" if graph.length is None else f"every row padded to {graph.length} tokens"


def describe(graph: Graph, restored: Restored) -> None:
    """Put the label names, the task, the base and the length into the file's metadata."""
    import onnx

    model, recipe = onnx.load(graph.path), restored.recipe
    facts = {"labels": json.dumps(list(restored.base.labels)), "task": restored.task.name,
             "base_model": public_name(restored.base.source), "max_length": str(recipe.task.max_length),
             "length": length_of(graph)}  # fmt: skip
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    onnx.save(model, graph.path)


def logits_of_rows(graph: Graph, objective: SequenceObjective, rows: list[Any], tell: Tell) -> torch.Tensor:
    """Return the written file's logits [rows, labels]."""
    session, found = Session(graph.path), list[torch.Tensor]()
    for start in range(0, len(rows), 16):
        found.append(session.run(objective.inputs(rows[start : start + 16])))
        tell(start + len(found[-1]))
    return torch.cat(found)


def usage(graph: Graph, task: SequenceTask, max_length: int) -> list[str]:
    """Return the card's lines on how onnxruntime runs the graph, whose inputs may be fewer than the tokenizer
    returns.
    """
    texts = ", ".join(f'"{name}"' for name in task.text)
    padding = "" if graph.length is None else ', padding="max_length"'
    return python(
        "import json",
        "import onnxruntime",
        "from transformers import AutoTokenizer",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        'labels = json.loads(session.get_modelmeta().custom_metadata_map["labels"])',
        *([] if graph.length is None else ["# The length is part of the graph: every row is padded to it."]),
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f'encoded = tokenizer({texts}, truncation=True, max_length={max_length}{padding}, return_tensors="np")',
        "(logits,) = session.run(None, {own.name: encoded[own.name] for own in session.get_inputs()})",
    )
