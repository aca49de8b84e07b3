"""Modules saved whole with adapters, such as a classifier's head, made into one.

They are no changes of the base but weights of their own, so they are averaged, with weights that sum to 1, where all
adapters have the same ones and their outputs mean the same; or they are taken from one of the adapters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from reflora_cli.combining.source import Source
from reflora_cli.export.public import last_part
from reflora_cli.ground.errors import InputError, Problem

REMEDY = "choose the adapter whose modules are taken: --head ADAPTER"


def whole_tensors(sources: Sequence[Source], weights: Sequence[float], head: str | None) -> dict[str, Tensor]:
    """Return the tensors of modules saved whole, by key without PEFT's prefix, each in its own dtype.

    weights: one for each source. head: the source whose modules are taken. Raises InputError where there is no mean.
    """
    if head is not None:
        return as_they_are(source_of_head(sources, head))
    check_alike(sources)
    first = sources[0]
    if len(sources) == 1 or not first.whole:
        return as_they_are(first)
    total = sum(weights)
    if abs(total) <= 1e-6 * sum(map(abs, weights)):
        what = "--weights sum to 0, so the modules saved whole have no weighted mean"
        found = ", ".join(modules_of(first))
        raise InputError(Problem(what, "--weights", found, remedy=REMEDY))
    return {key: mean_of(key, sources, [own / total for own in weights]) for key in first.whole}


def source_of_head(sources: Sequence[Source], head: str | None) -> Source:
    """Return the source whose modules saved whole, labels and tokenizer go with the combination."""
    return next((own for own in sources if own.named == head), sources[0])


def as_they_are(source: Source) -> dict[str, Tensor]:
    """Return the tensors of a source's modules saved whole."""
    return {key: source.files.tensors[key] for key in source.whole}


def mean_of(key: str, sources: Sequence[Source], shares: Sequence[float]) -> Tensor:
    """Return the weighted mean of one tensor, summed in float64. Raises InputError for different shapes."""
    tensors = [own.files.tensors[key] for own in sources]
    if len({tensor.shape for tensor in tensors}) > 1:
        found = ", ".join(f"{list(own.shape)} in {source.named}" for own, source in zip(tensors, sources, strict=True))
        raise InputError(Problem("the adapters' modules saved whole have different shapes", key, found, remedy=REMEDY))
    mean = torch.stack([tensor.double() * share for tensor, share in zip(tensors, shares, strict=True)]).sum(dim=0)
    return mean.to(tensors[0].dtype)


def check_alike(sources: Sequence[Source]) -> None:
    """Raises InputError unless all sources have the same modules saved whole, and outputs that mean the same."""
    first = sources[0]
    for other in sources[1:]:
        where = f"{first.named} and {other.named}"
        if first.labels and other.labels and first.labels != other.labels:
            found = f"{', '.join(first.labels)} and {', '.join(other.labels)}"
            raise InputError(Problem("the adapters' heads are for different labels", where, found, remedy=REMEDY))
        if first.whole != other.whole:
            found = f"{listed(first)} and {listed(other)}"
            raise InputError(Problem("the adapters save different modules whole", where, found, remedy=REMEDY))


def listed(source: Source) -> str:
    return ", ".join(modules_of(source)) or "none"


def modules_of(source: Source) -> list[str]:
    """Return the paths of modules with tensors of their own, among those saved whole."""
    return sorted({key.rpartition(".")[0] for key in source.whole})


def origin(sources: Sequence[Source], head: str | None) -> str:
    """Say where modules saved whole come from; empty where there are none."""
    source = source_of_head(sources, head)
    if not source.whole:
        return ""
    taken = head is not None or len(sources) == 1
    return f"{listed(source)}, {f'from {last_part(source.named)}' if taken else 'the weighted mean'}"
