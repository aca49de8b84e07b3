"""Export to PEFT: an adapter directory that PEFT and transformers load, with a model card.

A run's `adapter/` already is in PEFT's format. The export adds the tokenizer and the card, and proves itself: it is
read back strictly and every tensor must be bit-equal to the run's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from reflora_cli.adapter_files import PREFIX, AdapterFiles, read_adapter, write_adapter
from reflora_cli.adapter_loading import load_adapter
from reflora_cli.atomic import write_directory, write_file, write_json
from reflora_cli.errors import Problem, VerificationError
from reflora_cli.export.card import model_card, peft_lines, subject_of, vllm_line
from reflora_cli.model.load import load_tokenizer
from reflora_cli.model.pick import load_base
from reflora_cli.recipe import ModelSection, Recipe
from reflora_cli.restore import Restored, restore
from reflora_cli.runs import RunDirectory


@dataclass(frozen=True)
class ExportReport:
    """What was written."""

    output: str
    format: str
    tensors: int
    parameters: int


def export_peft(recipe: Recipe, run: RunDirectory, output: Path) -> ExportReport:
    """Write a run's adapter to `output`.

    Raises InputError for wrong input or an existing output; nothing is left there then.
    """
    restored = restore(recipe, run.adapter, torch.device("cpu"))
    files = restored.files
    assert files is not None
    with write_directory(output) as directory:
        write_json(directory / "adapter_config.json", files.config.model_dump())
        write_json(directory / "reflora.json", files.record)
        write_adapter(directory, {f"{PREFIX}{key}": tensor for key, tensor in files.tensors.items()})
        load_tokenizer(restored.base.source).save_pretrained(directory)
        subject = subject_of(recipe, run)
        load = [*peft_lines(subject), "", vllm_line(files.config)]
        write_file(directory / "README.md", model_card(subject, "adapter", "peft", load))
        verify(restored, files, directory)
    parameters = sum(tensor.numel() for tensor in files.tensors.values())
    return ExportReport(str(output), "peft", len(files.tensors), parameters)


def verify(restored: Restored, files: AdapterFiles, directory: Path) -> None:
    """Attach what was written to a new base and compare every tensor."""
    source = restored.base.source
    written = read_adapter(directory)
    section = ModelSection(name=source.name)
    base = load_base(section, source.revision, restored.task, restored.compute.dtype, seed=0)
    load_adapter(base.model, written, base.fresh)
    same = written.tensors.keys() == files.tensors.keys() and all(
        torch.equal(tensor, files.tensors[key]) for key, tensor in written.tensors.items()
    )
    if not same:
        raise VerificationError(Problem("the exported tensors differ from the run's", str(directory)))
