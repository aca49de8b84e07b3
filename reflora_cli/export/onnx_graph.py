"""Trace a classifier into one ONNX graph and compare the graph with the classifier on batches of many shapes.

What the tracing exporter meets as a Python number becomes a constant of the graph. Which architectures use the batch
size or the length in that way cannot be told from outside. So a graph with free length is traced first and tried on
other batches and lengths. Where it fails, one with a fixed length is made, to which every row is padded.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.console.output import unused_stdout
from reflora_cli.export.onnx_rows import batches_of_shapes, described
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.merging.verify import tolerance
from reflora_cli.model.load import quiet_transformers
from reflora_cli.objectives.sequence import SequenceObjective

OPSET = 17
FREE = 1
"""The multiple to which rows are padded where the length is free."""


@dataclass(frozen=True)
class Graph:
    """A graph file that was checked. inputs: the names of what it is fed. length: what rows are padded to, None if
    it is free.
    """

    path: Path
    inputs: tuple[str, ...]
    length: int | None
    largest_difference: float


class Session:
    """A graph in onnxruntime on the CPU."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what fails is raised
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(own.name for own in self.session.get_inputs())

    def run(self, batch: dict[str, Tensor]) -> Tensor:
        """Return logits [n, labels] of a batch, which may have more entries than the graph has inputs."""
        (logits,) = self.session.run(None, {name: batch[name].numpy() for name in self.inputs})
        return torch.from_numpy(logits)


class LogitsOnly(nn.Module):
    """A model that takes its inputs by position and returns its logits, as a graph does."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


class UnlikeError(Exception):
    """A graph cannot be traced, cannot be run, or computes something other than its model."""


def make_graph(objective: SequenceObjective, rows: Sequence[Any], max_length: int, path: Path) -> Graph:
    """Write the graph of the objective's model, which is plain and float32, and return it checked.

    Raises InputError with the reason where neither a free nor a fixed length gives a graph that computes what the model
    does.
    """
    reasons = []
    batches = batches_of_shapes(rows, objective.base.tokenizer.all_special_ids, max_length)
    for length in (None, max_length):
        objective.multiple = length or FREE
        try:
            trace(objective, batches[-1], length, path)
            return checked(objective, batches, length, path)
        except UnlikeError as reason:
            reasons.append(f"{'free length' if length is None else f'length {length}'}: {reason}")
            path.unlink(missing_ok=True)
    kind = objective.base.model.config.model_type
    what = f"no correct ONNX graph could be made of this {kind} model"
    raise InputError(Problem(what, "--format onnx", "; ".join(reasons), remedy="use --format safetensors"))


def trace(objective: SequenceObjective, rows: Sequence[Any], length: int | None, path: Path) -> None:
    """Write the graph of one pass over some padded rows. Raises UnlikeError if it cannot be traced.

    This is the tracing exporter: the one on torch.export cannot yet take the masks of all architectures with free
    lengths.
    """
    inputs = objective.inputs(rows)
    names = list(inputs)
    free = {0: "batch"} if length else {0: "batch", 1: "length"}
    with silent_exporter():
        try:
            torch.onnx.export(
                LogitsOnly(objective.base.model, names).eval(), tuple(inputs.values()), str(path), input_names=names,
                output_names=["logits"], dynamic_axes=dict.fromkeys(names, free) | {"logits": {0: "batch"}},
                opset_version=OPSET, dynamo=False,
            )  # fmt: skip
        except Exception as error:  # of an operation that has no form in ONNX, in no common type
            raise UnlikeError(f"cannot be traced: {first_line(error)}") from error


def checked(objective: SequenceObjective, batches: Sequence[Sequence[Any]], length: int | None, path: Path) -> Graph:
    """Return the graph after comparing it with the model on each batch that the model itself can take. Raises
    UnlikeError.
    """
    try:
        session = Session(path)
    except Exception as error:  # in no common type
        raise UnlikeError(f"cannot be loaded: {first_line(error)}") from error
    largest = 0.0
    for rows in batches:
        inputs = objective.inputs(rows)
        expected = None
        with suppress(Exception), torch.no_grad():  # some models refuse, say, a single token
            expected = objective.base.model(**inputs).logits
        if expected is None:
            continue
        try:
            found = session.run(inputs)
        except Exception as error:  # in no common type
            raise UnlikeError(f"{described(rows)}: {first_line(error)}") from error
        if found.shape != expected.shape:
            raise UnlikeError(f"{described(rows)}: logits {list(found.shape)}, not {list(expected.shape)}")
        apart = float((found - expected).abs().max())
        if not apart <= tolerance(expected, torch.float32):
            raise UnlikeError(f"{described(rows)}: logits differ by {apart:.2e}")
        largest = max(largest, apart)
    return Graph(path, session.inputs, length, largest)


def first_line(error: Exception) -> str:
    """Return the short form of a library's exception; onnxruntime begins with a node's long name."""
    message = str(error).strip().partition("\n")[0]
    return message.rpartition("Status Message: ")[2][:160] or type(error).__name__


@contextmanager
def silent_exporter() -> Iterator[None]:
    """Run the exporter without its advice, and without the graphs that it prints on stdout where it fails.

    Values that became constants, of which the advice warns, are found by `checked`.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), quiet_transformers(), unused_stdout(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
