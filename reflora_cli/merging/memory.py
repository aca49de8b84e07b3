"""Merge a model in memory, for bases whose files name or arrange their tensors differently than transformers does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from reflora_cli.console.reporter import SILENT, Reporter, Work, counted
from reflora_cli.merging.tensors import kept_ties, plain_modules, tied_names
from reflora_cli.runs.restore import Restored


def write_from_memory(restored: Restored, dtype: torch.dtype, directory: Path, reporter: Reporter) -> None:
    """Turn the restored model into a plain one in `dtype` and save it."""
    make_plain(restored, dtype, reporter)
    reporter.note("writing the merged model")
    restored.base.model.save_pretrained(directory, safe_serialization=True)


@torch.no_grad()
def make_plain(restored: Restored, dtype: torch.dtype, reporter: Reporter = SILENT) -> None:
    """Turn the restored model into a plain one in `dtype`, in place, one module at a time."""
    assert restored.adapted is not None
    model = restored.base.model
    tied, kept = tied_names(model), kept_ties(model, restored.adapted)
    modules = plain_modules(model, restored.adapted, dtype)
    with reporter.counting(Work("merging", len(modules), "modules")) as tell:
        for name, make in counted(modules.items(), tell):
            model.set_submodule(name, make())
    nn.Module.to(model, dtype)
    model.config.dtype = dtype
    if tied and not kept:
        separate(model, tied)


def separate(model: Any, tied: Mapping[str, str]) -> None:
    """Give each of the tied names a parameter of its own, in place; the model's config must tie nothing any more."""
    for name in tied:
        path, _, kind = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, kind, nn.Parameter(getattr(module, kind).detach().clone(), requires_grad=False))
