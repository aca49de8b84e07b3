"""Export for llama.cpp and Ollama: merge a run and convert the result, or convert its adapter."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from reflora_cli.adapter_files import read_adapter
from reflora_cli.atomic import write_directory, write_file
from reflora_cli.errors import InputError, Problem
from reflora_cli.export.card import model_card, subject_of
from reflora_cli.export.gguf import GgufKind, modelfile, require_gguf, verify_gguf, write_gguf
from reflora_cli.export.gguf_adapter import refuse_unrepresentable, write_gguf_adapter
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.merging.merge import MergeRequest, merge
from reflora_cli.model.load import quiet_transformers
from reflora_cli.objectives.rows import kept_rows
from reflora_cli.recipe import Recipe
from reflora_cli.restore import restore
from reflora_cli.runs import RunDirectory
from reflora_cli.sources import find_source
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.registry import find_task


@dataclass(frozen=True)
class GgufReport:
    """What was written. largest_difference: of logits, as transformers reads the file, from the merged model's."""

    output: str
    format: str
    tensors: int
    parameters: int
    largest_difference: float


@dataclass(frozen=True)
class GgufAdapterReport:
    """What was written."""

    output: str
    format: str
    modules: int


def export_gguf(recipe: Recipe, run: RunDirectory, output: Path, kind: GgufKind) -> GgufReport:
    """Write `model.gguf`, a `Modelfile` and a card to `output`.

    Raises InputError for what cannot be converted, VerificationError when what was written is something else; nothing
    is left at `output` then.
    """
    require_gguf()
    refuse_classifiers(recipe)
    check_architecture(recipe)
    with write_directory(output) as directory, tempfile.TemporaryDirectory(dir=directory) as place:
        merged = Path(place) / "merged"
        merge(MergeRequest(recipe, run.adapter, merged, dtype="float32", rows=kept_rows(recipe, run)))
        with quiet_transformers():
            written = write_gguf(merged, directory / "model.gguf", kind, recipe.model.name)
            difference = verify_gguf(written, merged)
        write_file(directory / "Modelfile", modelfile("model.gguf", end_token(merged)))
        usage = ["```sh", "llama-cli -m model.gguf -p 'a prompt'", "ollama create my-model -f Modelfile", "```"]
        write_file(directory / "README.md", model_card(subject_of(recipe, run), f"GGUF, {kind}", "gguf", usage))
    return GgufReport(str(output), f"gguf {kind}", written.tensors, written.parameters, difference)


def export_gguf_adapter(recipe: Recipe, run: RunDirectory, output: Path) -> GgufAdapterReport:
    """Write `adapter.gguf` and a card to `output`. Raises as `export_gguf`."""
    require_gguf()
    refuse_classifiers(recipe)
    files = read_adapter(run.adapter)
    refuse_unrepresentable(files)
    restored = restore(
        recipe, run.adapter, torch.device("cpu")
    )  # refuses another base, and an adapter that does not fit
    model = restored.base.model
    with write_directory(output) as directory:
        path = directory / "adapter.gguf"
        modules = write_gguf_adapter(files, model.config, type(model).__name__, path)
        usage = ["```sh", "llama-cli -m base.gguf --lora adapter.gguf -p 'a prompt'", "```"]
        write_file(directory / "README.md", model_card(subject_of(recipe, run), "GGUF adapter", "gguf", usage))
    return GgufAdapterReport(str(output), "gguf-adapter", modules)


def refuse_classifiers(recipe: Recipe) -> None:
    task = find_task(recipe.task.name)
    if isinstance(task, SequenceTask):
        remedy = "export a classifier with --format onnx or safetensors"
        raise InputError(Problem("only language models are exported to GGUF", "--format", task.name, remedy=remedy))


def check_architecture(recipe: Recipe) -> None:
    """Raises InputError before anything is merged."""
    from transformers import AutoConfig

    source = find_source(recipe.model.name, recipe.model.revision)
    config: Any = AutoConfig.from_pretrained(source.location, revision=source.revision)
    layout_of(config, (config.architectures or ["unknown"])[0])


def end_token(directory: Path) -> str | None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    end: str | None = tokenizer.eos_token
    return end
