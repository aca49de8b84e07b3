"""Export for llama.cpp and Ollama: merge a run and convert the result, or convert its adapter."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from reflora_cli.adapter_io.files import read_adapter
from reflora_cli.console.reporter import SILENT, Reporter
from reflora_cli.export.card import model_card, subject_of
from reflora_cli.export.gguf import GgufFile, GgufRequest, write_gguf
from reflora_cli.export.gguf_adapter import refuse_unrepresentable, write_gguf_adapter
from reflora_cli.export.gguf_agreement import refuse_disagreement, refuse_other_turns
from reflora_cli.export.gguf_config import graph_notes
from reflora_cli.export.gguf_names import layout_of
from reflora_cli.export.gguf_quantize import find_quantizer, quantize
from reflora_cli.export.gguf_tokenizer import Converted, convert_tokenizer
from reflora_cli.export.gguf_types import GgufType
from reflora_cli.export.gguf_verify import verify_gguf
from reflora_cli.export.ollama import modelfile
from reflora_cli.export.prompting import Reader, Served, served
from reflora_cli.ground.atomic import write_directory, write_file
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.extras import EXTRAS
from reflora_cli.merging.merge import MergeRequest, merge, refuse_unmerged
from reflora_cli.methods.settings import Dtype
from reflora_cli.model.auto import load_config
from reflora_cli.model.chat_template import by_chat_template
from reflora_cli.model.load import load_tokenizer, quiet_transformers
from reflora_cli.model.sources import find_source
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.tasks import task_of
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.restore import kept_rows, with_adapter
from reflora_cli.tasks.base import PromptTask

UNCOMPARED = "llama.cpp may tokenize texts unlike the base's tokenizer, which is not checked: compare some prompts' ids"


@dataclass(frozen=True)
class GgufReport:
    """The report of an exported model. largest_difference: between the logits that llama.cpp computes from the file and
    those of the merged model.

    tokenizer: llama.cpp's kind, and how it cuts words. notes: what llama.cpp does differently from transformers.
    """

    output: str
    format: str
    tensors: int
    parameters: int
    largest_difference: float
    tokenizer: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class GgufAdapterReport:
    """The report of an exported adapter."""

    output: str
    format: str
    modules: int


def export_gguf(
    recipe: Recipe, run: RunDirectory, output: Path, kind: GgufType, reporter: Reporter = SILENT
) -> GgufReport:
    """Write `model.gguf`, a `Modelfile` and a card to `output`. reporter: what is shown meanwhile.

    Raises InputError for what cannot be converted, VerificationError when what was written is something else; nothing
    is left at `output` then.
    """
    EXTRAS["gguf"].require()
    refuse_unmerged(recipe)
    write = writer_of(kind, reporter)
    tasks = asked_tasks(recipe)
    with quiet_transformers():
        converted = convertible(recipe)
    with write_directory(output) as directory, tempfile.TemporaryDirectory(dir=directory) as place:
        merged = Path(place) / "merged"
        merge(MergeRequest(recipe, run.adapter, merged, dtype=Dtype.FLOAT32, rows=kept_rows(recipe, run)), reporter)
        name = Path(recipe.model.name).name
        tokenizer = load_tokenizer(find_source(str(merged), None))
        asked = served(tasks, tokenizer, Reader(converted.tokenizer.add_bos, converted.lead))
        if by_chat_template(tasks):
            converted = converted.talking(asked.end.token if asked.end else None, begins=asked.begins)
            refuse_other_turns(converted, tokenizer)
        source = kind if kind.is_written_here else GgufType.F16
        request = GgufRequest(merged, directory / "model.gguf", source, converted, asked.chat_template, name)
        with quiet_transformers():
            written = write(request)
            difference = verify_gguf(written, request, reporter)
        write_file(directory / "Modelfile", modelfile("model.gguf", asked.ollama))
        card = model_card(subject_of(recipe, run), f"GGUF, {kind}", "gguf", model_lines(asked, converted.notes))
        write_file(directory / "README.md", card)
    cut = f"{converted.tokenizer.model}, {converted.tokenizer.pre}"
    return GgufReport(
        str(output), f"gguf {kind}", written.tensors, written.parameters, difference, cut, converted.notes
    )


def writer_of(kind: GgufType, reporter: Reporter) -> Callable[[GgufRequest], GgufFile]:
    """Return what writes a file of this type. Raises InputError if a program that it needs is not installed."""
    if kind.is_written_here:
        return partial(write_gguf, reporter=reporter)
    program = find_quantizer()

    def write(request: GgufRequest) -> GgufFile:
        source = write_gguf(replace(request, output=request.directory / "source.gguf"), reporter)
        quantize(program, source.path, request.output, kind, reporter.note)
        source.path.unlink()
        return replace(source, path=request.output, kind=kind)

    return write


def export_gguf_adapter(recipe: Recipe, run: RunDirectory, output: Path) -> GgufAdapterReport:
    """Write `adapter.gguf`, a `Modelfile` and a card to `output`. Raises as `export_gguf`."""
    EXTRAS["gguf"].require()
    refuse_unmerged(recipe)
    tasks = asked_tasks(recipe)
    files = read_adapter(run.adapter)
    refuse_unrepresentable(files)
    with quiet_transformers():
        reader, notes = reading(recipe)
    restored = with_adapter(recipe, files, torch.device("cpu"))  # refuses another base, and what does not fit it
    asked = served(tasks, restored.base.tokenizer, reader)
    with write_directory(output) as directory:
        modules = write_gguf_adapter(files, restored.base.model, directory / "adapter.gguf")
        write_file(directory / "Modelfile", modelfile("base.gguf", asked.ollama, adapter="adapter.gguf"))
        card = model_card(subject_of(recipe, run), "GGUF adapter", "gguf", adapter_lines(asked, notes))
        write_file(directory / "README.md", card)
    return GgufAdapterReport(str(output), "gguf-adapter", modules)


def asked_tasks(recipe: Recipe) -> tuple[PromptTask, ...]:
    """Return the tasks that the model was asked. Raises InputError for a classifier."""
    task = task_of(recipe.task)
    if not task.parts:
        remedy = "export a classifier with --format onnx or safetensors"
        raise InputError(Problem("only language models are exported to GGUF", "--format", task.name, remedy=remedy))
    return task.parts


def convertible(recipe: Recipe) -> Converted:
    """Return the base's tokenizer for llama.cpp. Raises InputError, before any work, for a base that cannot be
    converted.
    """
    size, notes = computable(recipe)
    tokenizer = load_tokenizer(find_source(recipe.model.name, recipe.model.revision))
    converted = convert_tokenizer(tokenizer, size)
    refuse_disagreement(converted, tokenizer)
    return replace(converted, notes=(*converted.notes, *notes))


def computable(recipe: Recipe) -> tuple[int, tuple[str, ...]]:
    """Return the size of the base's embedding, and notes on what llama.cpp computes differently in texts that users
    can avoid. Raises InputError for a base that it would compute differently.
    """
    source = find_source(recipe.model.name, recipe.model.revision)
    config: Any = load_config(source.location, source.revision)
    layout = layout_of(config, (config.architectures or ["unknown"])[0])
    return config.vocab_size, graph_notes(config, layout.architecture)


def reading(recipe: Recipe) -> tuple[Reader, tuple[str, ...]]:
    """Return how llama.cpp reads prompts, and notes, for an adapter, whose base has a tokenizer of its own.

    Raises InputError for a base that llama.cpp would compute differently.
    """
    _, notes = computable(recipe)
    try:
        converted = convertible(recipe)
    except InputError:
        return Reader(begins=True), (UNCOMPARED, *notes)
    return Reader(converted.tokenizer.add_bos, converted.lead), converted.notes


def model_lines(asked: Served, notes: Sequence[str]) -> list[str]:
    """Return the card's lines on how a model is run and asked."""
    return [
        "```sh",
        "ollama create my-model -f Modelfile",
        "ollama run my-model 'a question'",
        "llama-cli -m model.gguf --jinja -p 'a question'",
        "```",
        "",
        *carried_lines(asked),
        "",
        *asked.card,
        *note_lines(notes),
    ]


def adapter_lines(asked: Served, notes: Sequence[str]) -> list[str]:
    """Return the card's lines on how an adapter is put on its base and asked."""
    return [
        "```sh",
        "python convert_hf_to_gguf.py path/to/base --outfile base.gguf  # of llama.cpp",
        "llama-cli -m base.gguf --lora adapter.gguf -no-cnv -p 'a whole prompt'",
        "ollama create my-model -f Modelfile  # with base.gguf beside it",
        "```",
        "",
        "The Modelfile writes the prompt of training around a question. A chat template that the base's GGUF carries "
        "may be another one than this adapter was trained on.",
        "",
        *asked.card,
        *note_lines(notes),
    ]


def carried_lines(asked: Served) -> list[str]:
    """Return the card's lines on what in the files asks as training did."""
    if asked.ollama.template is None:
        return [
            "The chat template that was trained is inside of the file. The Modelfile has no TEMPLATE, since Ollama has "
            f"no equal of it: {asked.ollama.left_out}.",
        ]
    return [
        "The Modelfile and the chat template inside of the file write the prompt of training around a question. "
        "Another chat template of the base is left out: this model was not trained on it.",
    ]


def note_lines(notes: Sequence[str]) -> list[str]:
    """Return what llama.cpp does differently, as a list."""
    if not notes:
        return []
    return ["", "What llama.cpp does otherwise than transformers:", "", *(f"- {note}." for note in notes)]
