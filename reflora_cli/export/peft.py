"""Export to PEFT: write an adapter directory that PEFT and transformers load, with a model card.

A run's `adapter/` is in PEFT's format already. The export adds the tokenizer and the card, and checks itself: the
directory is read back strictly, every tensor must be bit-equal to the run's, and PEFT must compute the same logits with
it.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from reflora_cli.adapter_io.files import CONFIG, RECORD, AdapterFiles, read_adapter, with_ties, write_adapter
from reflora_cli.adapter_io.keys import saved_modules
from reflora_cli.adapter_io.peft_rules import readable, unreadable
from reflora_cli.adapters.ties import tied_to
from reflora_cli.console.reporter import SILENT, Reporter
from reflora_cli.export.card import adapter_card, asked_section, subject_of
from reflora_cli.export.moved_base import difference_unmoved, restored_for_peft, unmoved_lines
from reflora_cli.export.peft_view import PeftView
from reflora_cli.export.vllm import vllm_line
from reflora_cli.ground.atomic import write_directory, write_file, write_json
from reflora_cli.ground.errors import InputError, Problem, VerificationError
from reflora_cli.merging.verify import summary
from reflora_cli.methods.settings import Attention, Quantization
from reflora_cli.model.base import outermost
from reflora_cli.model.chat_template import served_tokenizer
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.restore import Restored


@dataclass(frozen=True)
class ExportReport:
    """The report of an exported adapter. checked_by: the reader that computed the same logits with it. vllm: whether
    vLLM can serve it, and how, or why not.

    quantization_difference: how far it is, on the quantized base, from the model that was trained, where training had
    moved that base and quantized it again.
    """

    output: str
    format: str
    tensors: int
    parameters: int
    checked_by: str
    vllm: str
    quantization_difference: dict[str, float] | None = None


def export_peft(recipe: Recipe, run: RunDirectory, output: Path, reporter: Reporter = SILENT) -> ExportReport:
    """Write a run's adapter to `output`. reporter: what is shown meanwhile.

    Raises InputError for wrong input, an existing output and adapters that PEFT cannot read, VerificationError when
    what was written is something else; nothing is left there then. Everything is compared on the base as it is,
    without quantization: PEFT knows the base in that form. What it costs that PEFT does not move a quantized base is
    measured on the base as it was trained on.
    """
    if reason := recipe.method.layer.not_for_peft:
        raise InputError(Problem("PEFT cannot read this run", str(output), reason, remedy=recipe.method.layer.way_out))
    trained = read_adapter(run.adapter)
    apart = difference_unmoved(recipe, run, trained)
    section = recipe.model.model_copy(update={"quantization": Quantization.NONE, "attention": Attention.AUTO})
    restored = restored_for_peft(recipe.model_copy(update={"model": section}), trained)
    refuse_unreadable(restored, output)
    files = replace(completed(restored), record=trained.record)
    task, source, dtype = restored.task, restored.base.source, restored.compute.dtype
    tokenizer = served_tokenizer(restored.base, task)
    assert restored.adapted is not None
    config = readable(files.config.model_dump(), restored.base.model, restored.adapted.layers)
    view, vllm = PeftView(restored.objective), vllm_line(recipe.method.layer, files.config)
    del restored  # two models are never in memory together
    gc.collect()
    with write_directory(output) as directory:
        write_json(directory / CONFIG, config)
        write_json(directory / RECORD, files.record)
        write_adapter(directory, {files.whole_key(key): tensor for key, tensor in files.tensors.items()})
        tokenizer.save_pretrained(directory)
        about, asked = subject_of(recipe, run), asked_section(task, tokenizer)
        card = adapter_card(about, files.config, further=unmoved_lines(apart), asked=asked)
        write_file(directory / "README.md", card)
        reporter.note(f"reading {len(files.tensors):,} tensors back, to compare them and what is computed with them")
        check_tensors(files, directory)
        base = kind_of(task).load_base(section, source.revision, dtype, recipe.train.seed)
        reader = view.verify(base, directory, str(output))
    parameters = sum(tensor.numel() for tensor in files.tensors.values())
    cost = None if apart is None else summary(apart)
    return ExportReport(str(output), "peft", len(files.tensors), parameters, reader, vllm, cost)


def refuse_unreadable(restored: Restored, output: Path) -> None:
    assert restored.adapted is not None
    if reason := unreadable(restored.base.model, restored.adapted.layers):
        way = restored.recipe.method.layer.way_out
        raise InputError(Problem("PEFT cannot read this adapter", str(output), reason, remedy=way))


def completed(restored: Restored) -> AdapterFiles:
    """Return the run's adapter with, in addition, every module that shares a trained weight."""
    files, model = restored.files, restored.base.model
    assert files is not None
    saved = saved_modules(model, files.config)
    tied = tied_to(model, saved)
    if not tied:
        return files
    names = list(outermost({*saved, *tied}))
    tensors = with_ties(
        model, names, {files.whole_key(key): tensor for key, tensor in files.tensors.items()}, files.config.prefix
    )
    return AdapterFiles(
        files.directory,
        files.config.model_copy(update={"modules_to_save": names}),
        {key.removeprefix(files.config.prefix): tensor for key, tensor in tensors.items()},
        files.record,
    )


def check_tensors(files: AdapterFiles, directory: Path) -> None:
    """Raises VerificationError unless the tensors in the directory are those of the run, bit by bit."""
    written = read_adapter(directory).tensors
    same = written.keys() == files.tensors.keys() and all(
        torch.equal(tensor, files.tensors[key]) for key, tensor in written.items()
    )
    if not same:
        raise VerificationError(Problem("the exported tensors differ from the run's", str(directory)))
