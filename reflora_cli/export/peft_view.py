"""Find out whether PEFT computes with an exported adapter what we do.

PEFT itself answers where it is installed. Elsewhere our loader reads the adapter by PEFT's rules, without what only our
record says.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from reflora_cli.adapter_io.config import PEFT_HEADS
from reflora_cli.adapter_io.files import read_adapter
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.merging.verify import difference, refuse, tolerance
from reflora_cli.model.base import Base
from reflora_cli.model.load import quiet_transformers
from reflora_cli.model.precision import precision
from reflora_cli.objectives.objective import Objective

REMEDY = "merge it instead: reflora merge RUN"


class PeftView:
    """Our logits on a few rows, to be compared with those that PEFT computes with an exported adapter."""

    def __init__(self, objective: Objective[Any]) -> None:
        """Compute our logits. objective: that of the model with the adapter, on the CPU; it is not kept."""
        self.inputs = objective.made_up_inputs()
        self.dtype = objective.compute.dtype
        self.expected = self.logits(objective.base.model)

    @torch.no_grad()
    def logits(self, model: Any) -> Tensor:
        """Return logits [rows, k] in float32; a language model's are those of every place of
        the rows, without those of virtual tokens, which PEFT returns too.
        """
        with precision(torch.device("cpu"), self.dtype):
            found: Tensor = model(**self.inputs).logits
        own = found[:, -self.inputs["input_ids"].shape[1] :] if found.ndim == 3 else found
        return own.float().flatten(0, -2)

    def verify(self, base: Base, directory: Path, output: str) -> str:
        """Put the adapter in `directory` on a new base and compare; returns what read it there.

        Raises InputError for an adapter that PEFT cannot read, VerificationError when it computes something else.
        """
        model: Any = base.model
        if find_spec("peft"):
            version, model = by_peft(base, directory, output)
            reader = f"PEFT {version}"
        else:
            reader = by_rules(base, directory)
        with peft_errors(output):
            found = self.logits(model.eval())
        apart = difference(self.expected, found)
        refuse(apart, tolerance(self.expected, self.dtype), output, f"the adapter as {reader} reads it")
        return reader


def by_peft(base: Base, directory: Path, output: str) -> tuple[str, Any]:
    """Let PEFT put the adapter on the base, and return its version and the model that computes with it. Raises
    InputError when it fails, or holds other tensors.

    PEFT is no dependency: it is looked for at run time only, and nothing else in the package imports it.
    """
    peft = importlib.import_module("peft")
    files = read_adapter(directory)
    with peft_errors(output), warnings.catch_warnings(), quiet_transformers():
        warnings.simplefilter("ignore")
        theirs = peft.PeftModel.from_pretrained(base.model, str(directory), torch_device="cpu")
        held = peft.get_peft_model_state_dict(theirs, save_embedding_layers=False)
    own = {key.removeprefix(files.config.prefix): tensor for key, tensor in held.items()}
    check_held(own, files.tensors, peft.__version__)
    # Layers are put into the base itself; virtual tokens stand around it.
    return str(peft.__version__), theirs if files.config.virtual else base.model


@contextmanager
def peft_errors(output: str) -> Iterator[None]:
    """Raises InputError for any error of PEFT's: it means that it cannot read the adapter."""
    try:
        yield
    except Exception as error:  # in no common type
        first = str(error).strip().partition("\n")[0]
        what, found = "PEFT cannot read this adapter", f"{type(error).__name__}: {first}"
        raise InputError(Problem(what, output, found, remedy=REMEDY)) from error


def check_held(held: Mapping[str, Tensor], written: Mapping[str, Tensor], version: str) -> None:
    """Raises InputError unless the tensors that PEFT has read are those that were written.

    PEFT keeps modules saved whole in the base's dtype.
    """
    other = [key for key in written if key not in held or not torch.equal(held[key], written[key].to(held[key].dtype))]
    if wrong := sorted({*other, *(set(held) - set(written))}):
        what, found = "PEFT drops or changes tensors of this adapter", ", ".join(wrong[:3])
        raise InputError(Problem(what, f"PEFT {version}", found, remedy=REMEDY))


def by_rules(base: Base, directory: Path) -> str:
    """Put the adapter on the base by PEFT's rules, and return their name for the report.

    Our record, which says which modules trained together, is left out, and what PEFT adds to the modules saved whole is
    added.
    """
    files = read_adapter(directory)
    kind = (files.config.model_extra or {}).get("task_type")
    saved = [*(files.config.modules_to_save or []), *(PEFT_HEADS if kind == "SEQ_CLS" else ())]
    config = files.config.model_copy(update={"modules_to_save": saved})
    load_adapter(base.model, replace(files, config=config, record={}), base.fresh)
    return "PEFT's rules, as rebuilt here"
