"""Hold a job under way: what has advanced, its log, and the adapter that will be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import adapter_tensors, write_adapter, write_adapter_config
from reflora_cli.adapter_io.formats import adapter_config, format_of
from reflora_cli.console.reporter import Reporter
from reflora_cli.ground.atomic import readable_os_errors
from reflora_cli.ground.interruption import Interruption
from reflora_cli.model.tokenizer_files import write_tokenizer
from reflora_cli.objectives.pick import kind_of
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.tracking.tracker import UNTRACKED, Trackers
from reflora_cli.tracking.values import tracked_values
from reflora_cli.training.ahead import BatchAhead
from reflora_cli.training.checkpoint import Progress
from reflora_cli.training.compile_blocks import Compiling
from reflora_cli.training.job import Job
from reflora_cli.training.offload import HostActivations, addresses


@dataclass
class Session:
    """A job, accelerate's handles on it, its directory, and all that advances.

    tokenizer_files: those that go beside the adapter, by name. best: the best adapter so far, as it is in `adapter/`.
    agreed_stop: the signal by which all processes stop after this step; a signal that only one of them got does not
    count yet. plain: the adapters whose last steps were reported as plain. trackers: the programs that follow the run.
    compiling: what this process has compiled. not_compiled: why a model that was to be compiled is not; empty if it
    is.
    """

    job: Job
    accelerator: Accelerator
    model: nn.Module
    optimizer: Any
    run: RunDirectory
    reporter: Reporter
    interruption: Interruption
    tokenizer_files: Mapping[str, bytes] = field(default_factory=dict)
    progress: Progress = field(default_factory=Progress)
    best: dict[str, Tensor] = field(default_factory=dict)
    agreed_stop: int = 0
    plain: int = 0
    trackers: Trackers = UNTRACKED
    compiling: Compiling = field(default_factory=Compiling)
    not_compiled: str = ""

    @property
    def is_writer(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def processes(self) -> int:
        return self.job.compute.processes

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter by its full name."""
        return self.job.adapted.parameters

    @cached_property
    def batches(self) -> BatchAhead:
        """The batches of training rows, by the numbers of their rows."""
        objective, rows = self.job.objective, self.job.rows.training
        return BatchAhead(lambda numbers: objective.step_arguments([rows[number] for number in numbers]))

    def saving(self) -> AbstractContextManager[None]:
        """Return the context of a forward pass, which decides where tensors wait for the backward pass."""
        if not self.job.recipe.train.offload_activations:
            return nullcontext()
        # Asked for anew: a rule or a course that moves the base puts other weights in the place of its own.
        return HostActivations(addresses(self.model)).keeping()


def is_due(session: Session, every: int | str) -> bool:
    """Whether something that happens every `every` steps, at the end of each epoch, or never is due now."""
    step, job = session.progress.step, session.job
    if every == "never":
        return False
    period = job.sampler.steps_per_epoch if every == "epoch" else int(every)
    return step % period == 0 or step == job.total_steps


def append(session: Session, record: Mapping[str, Any]) -> None:
    """Append one line to metrics.jsonl, and tell it the trackers."""
    session.progress.lines += 1
    if session.is_writer:
        with readable_os_errors(session.run.metrics), session.run.metrics.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record, allow_nan=False) + "\n")
        session.trackers.log(tracked_values(record), record["step"])


def current_adapter(session: Session) -> dict[str, Tensor]:
    """Return a copy of the present adapter, under PEFT's keys."""
    job = session.job
    return {key: tensor.clone() for key, tensor in adapter_tensors(job.base.model, job.adapted, job.saved).items()}


def save_adapter(session: Session, tensors: Mapping[str, Tensor]) -> None:
    """Write all of `adapter/`, whatever is there."""
    if not session.is_writer:
        return
    job, directory = session.job, session.run.adapter
    source = job.base.source
    base = NamedBase(source.location if source.is_local else source.name, source.revision)
    kind = kind_of(job.task).peft_type
    config = adapter_config(job.base.model, job.adapted, job.recipe.method, job.saved, base, kind)
    config, tensors = format_of(job.adapted).condensed(config, tensors)
    write_tokenizer(directory, session.tokenizer_files)
    write_adapter_config(directory, config, adapter_record(job))
    write_adapter(directory, tensors)


def adapter_record(job: Job) -> dict[str, Any]:
    """Return what loading the adapter needs beside PEFT's config: its base, its labels, dtype and saved modules."""
    after = {"after": job.environment["after"]} if "after" in job.environment else {}
    return {
        **after,
        "base": job.environment["base"],
        "label_names": list(job.base.labels),
        "dtype": job.compute.dtype_name,
        "saved_modules": list(job.saved),
        **format_of(job.adapted).record(job.adapted),
    }
