"""Let the first of several processes read and write, and all of them know what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from accelerate.utils import broadcast_object_list, gather_object

from reflora_cli.ground.atomic import locked
from reflora_cli.ground.errors import RefloraError
from reflora_cli.model.precision import Compute

ResultT = TypeVar("ResultT")


def of_first(compute: Compute, make: Callable[[], ResultT]) -> ResultT:
    """Return in all processes what the first one makes. Raises its RefloraError in all of them."""
    if compute.processes == 1:
        return make()
    shared: list[Any] = [None, None]
    if compute.rank == 0:
        try:
            shared = [make(), None]
        except RefloraError as error:
            error.is_shared = True
            shared = [None, error]
    broadcast_object_list(shared)
    result, failure = shared
    if failure is not None:
        raise failure
    return cast(ResultT, result)


def of_all(compute: Compute, own: list[ResultT]) -> list[ResultT]:
    """Return the lists of all processes behind each other, in all of them."""
    return list(gather_object(own)) if compute.processes > 1 else own


@contextmanager
def locked_by_first(path: Path, compute: Compute) -> Iterator[None]:
    """Lock a directory for all processes. Raises InputError in all of them when another command has it."""
    with ExitStack() as stack:

        def enter() -> None:
            stack.enter_context(locked(path))

        of_first(compute, enter)
        yield
