"""What is written of a combination: PEFT's config and our record, with which any reader of LoRA computes the same."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflora_cli.adapter_io.files import PEFT_BASE, PREFIX, read_adapter, write_adapter, write_adapter_config
from reflora_cli.adapter_io.lora import PEFT_TYPE, common_and_others
from reflora_cli.combining.card import combined_card
from reflora_cli.combining.request import CombineReport
from reflora_cli.combining.source import Source
from reflora_cli.export.public import last_part
from reflora_cli.ground.atomic import write_file
from reflora_cli.ground.errors import Problem, VerificationError
from reflora_cli.ground.paths import is_file
from reflora_cli.runs.directory import BESIDE, CARD

FROM_HEAD = ("task_type", "modules_to_save", "ensure_weight_tying")
"""The entries of PEFT's config that are about the modules saved whole."""
FROM_BASE = (PEFT_BASE, "revision")


@dataclass(frozen=True)
class Combination:
    """What is written beside the tensors. head: the source whose tokenizer goes with the result."""

    sources: Sequence[Source]
    head: Source
    config: Mapping[str, Any]
    record: Mapping[str, Any]
    report: CombineReport


def write(directory: Path, combination: Combination, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter directory, and read it back. tensors: by key without PEFT's prefix.

    Raises VerificationError when what is read is something else.
    """
    write_adapter_config(directory, combination.config, combination.record)
    write_adapter(directory, {f"{PREFIX}{key}": tensor for key, tensor in tensors.items()})
    for file in tokenizer_of(combination.head.files.directory):
        shutil.copyfile(file, directory / file.name)
    write_file(directory / CARD, combined_card(combination.sources, combination.report))
    written = read_adapter(directory).tensors
    if written.keys() != tensors.keys() or not all(torch.equal(own, written[key]) for key, own in tensors.items()):
        raise VerificationError(Problem("the written tensors differ from the combined ones", str(directory)))


def tokenizer_of(adapter: Path) -> list[Path]:
    """Return the files of the tokenizer beside an adapter."""
    own = [name for name in BESIDE if name not in ("adapter_*", "reflora*", CARD)]
    return sorted({path for name in own for path in adapter.glob(name) if is_file(path)})


def combined_config(sources: Sequence[Source], head: Source, ranks: Mapping[str, int]) -> dict[str, Any]:
    """Return `adapter_config.json` of a LoRA with s = 1 everywhere. ranks: by module. head: the source whose modules
    saved whole, or whose kind of them, it has.
    """
    rank, others = common_and_others(ranks)
    patterns = {re.escape(name): own for name, own in others.items()}
    own, first = head.files.config.model_dump(), sources[0].files.config.model_dump()
    return {
        "peft_type": PEFT_TYPE,
        **{key: own[key] for key in FROM_HEAD if own.get(key) is not None},
        **{key: first.get(key) for key in FROM_BASE},
        "inference_mode": True,
        "target_modules": targets(sources, list(ranks)),
        "bias": "none",
        "r": rank,
        "lora_alpha": float(rank),
        "lora_dropout": 0.0,
        "use_dora": False,
        "use_rslora": False,
        "fan_in_fan_out": bool(first.get("fan_in_fan_out")),
        "init_lora_weights": True,
        "rank_pattern": patterns,
        "alpha_pattern": {name: float(rank) for name, rank in patterns.items()},
    }


def targets(sources: Sequence[Source], modules: Sequence[str]) -> list[str] | str:
    """Return the targets of the sources if they all have the same ones and the same modules, else the full paths."""
    configs = [own.files.config for own in sources]
    first = configs[0].target_modules
    alike = all(own.target_modules == first and not own.target_parameters for own in configs)
    if alike and all(set(own.layers) == set(modules) for own in sources):
        return first
    return sorted(modules)


def combined_record(sources: Sequence[Source], head: Source, report: CombineReport) -> dict[str, Any]:
    """Return `reflora.json`: the base of the sources, what the head's outputs mean, and what was combined."""
    bases = [own.files.record["base"] for own in sources if "base" in own.files.record]
    dtypes = {own.files.record.get("dtype") for own in sources}
    record: dict[str, Any] = {"base": bases[0]} if bases else {}
    record |= {key: head.files.record[key] for key in ("label_names", "saved_modules") if key in head.files.record}
    if len(dtypes) == 1 and None not in dtypes:
        record["dtype"] = dtypes.pop()
    names = [last_part(named) for named in report.adapters]
    of = [{"adapter": name, "weight": weight} for name, weight in zip(names, report.weights, strict=True)]
    return {**record, "combined": {"how": str(report.how), "of": of, "lost": report.lost}}
