"""Find out, before anything begins, whether and how rows of unequal length may go through a model together.

Most models ignore masked padding. Some read the last place of a row, whatever is there; some take no mask; some count
places. So a few rows, long and short, go through the model alone and together, by the code that is to be used. Of
several ways the first is taken whose results are those of the rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from reflora_cli.data.pad import Padding
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.base import Base
from reflora_cli.model.fit import ordinary_tokens
from reflora_cli.model.precision import Compute

RowT = TypeVar("RowT")
Read = Callable[[Sequence[RowT], Padding], Tensor]
"""A function from rows and a padding to their results in one tensor, row after row along its first dimension."""
TEXTS = (
    "A cup of tea stands on the small wooden table near the window, where an old man reads the news about rain in the "
    "north, while two children look for a red ball.",
    "A cup of tea stands on the table.",
    "A cup.",
)
"""The texts of a long row, a middle one and a short one."""
LONGEST = 29
"""The most tokens of the longer row: enough padding beside the shorter one to show what reads it, and a prime
number, since some models treat lengths that are multiples of their blocks' differently."""
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 1e-1}
"""The largest accepted difference, as a share of the size of what is compared: more than another order of sums
changes, far less than padding that is read."""
LONG, MIDDLE, SHORT, TWIN = range(4)
"""The indices of a trial's rows."""
FOREIGN = (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""The exceptions of transformers' models that are asked for something they cannot do."""


@dataclass(frozen=True)
class Trial(Generic[RowT]):
    """Four rows, the last as long as the first and the others shorter and shorter, and the function that reads one
    alone.
    """

    rows: Sequence[RowT]
    alone: Callable[[RowT], Tensor]


def known_tokens(base: Base, ids: Sequence[int]) -> list[int]:
    """Replace unknown tokens by ordinary ones: a row in which all tokens are the same would show nothing."""
    rest, unknown = ordinary_tokens(base, len(ids)).tolist(), base.tokenizer.unk_token_id
    return [rest[place] if token == unknown else token for place, token in enumerate(ids)]


def twin(ids: Sequence[int]) -> list[int]:
    """Return another row of the same length, with the tokens between the first and the last one in reverse order."""
    return [*ids[:1], *reversed(ids[1:-1]), *ids[1:][-1:]]


def pick_padding(
    base: Base, compute: Compute, trial: Trial[RowT], ways: Sequence[Padding], read: Read[RowT]
) -> Padding:
    """Return the first of the ways by which rows together have the expected results.

    Raises InputError where there is none: rows then change each other whatever their lengths.
    """
    with readable(base):
        expected = {index: trial.alone(trial.rows[index]) for index in (LONG, MIDDLE, SHORT)}
    for way in ways:
        own = {Padding.NONE: (LONG, TWIN), Padding.ALONE: (LONG,)}.get(way, (LONG, MIDDLE, SHORT))
        expected |= {index: trial.alone(trial.rows[index]) for index in own if index not in expected}
        with suppress(*FOREIGN):  # a mask that is not taken, a cache that cannot be made
            found = read([trial.rows[index] for index in own], way)
            if agree(found, torch.cat([expected[index] for index in own]), compute.dtype):
                return way
    what = "this model is not supported: its result for a row depends on the other rows of the batch"
    raise InputError(Problem(what, f"model.name: {base.source.name}", f"a {base.model.config.model_type} model"))


@contextmanager
def readable(base: Base) -> Iterator[None]:
    """Raises InputError for the errors of a model that cannot read a single row."""
    try:
        yield
    except FOREIGN as error:
        what, where = "the model cannot process a row of its tokenizer", f"model.name: {base.source.name}"
        found = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise InputError(Problem(what, where, found)) from error


def agree(found: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal but for rounding in `dtype`. Values that are not finite are reported elsewhere."""
    if found.shape != expected.shape:
        return False
    apart, size = (torch.linalg.vector_norm(own.double()) for own in (found - expected, expected))
    return bool(apart <= TOLERANCE[dtype] * size) or not bool(size.isfinite())


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode without gradients, and back to the mode of before."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


@contextmanager
def drawn_anew(model: nn.Module, modules: Sequence[str]) -> Iterator[None]:
    """Put random matrices into the named modules, the same in every run, and then their own values again.

    A head that is not trained yet may be zero, or so small that nothing of the body shows behind it.
    """
    own_parameters = (p for name in modules for p in model.get_submodule(name).parameters())
    matrices = [p for p in own_parameters if p.ndim > 1 and p.is_floating_point()]
    own = [matrix.detach().clone() for matrix in matrices]
    generator = torch.Generator().manual_seed(0)
    try:
        with torch.no_grad():
            for matrix in matrices:
                drawn = torch.randn(matrix.shape, generator=generator) / matrix[0].numel() ** 0.5
                matrix.copy_(drawn)
        yield
    finally:
        with torch.no_grad():
            for matrix, values in zip(matrices, own, strict=True):
                matrix.copy_(values)
