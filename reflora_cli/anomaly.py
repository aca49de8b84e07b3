"""`--detect-anomaly`: find the module and the operation that first give a value that is not finite.

Forward, every module's output is looked at; backward, autograd looks at every operation's gradient and remembers where
in the forward pass it came from. Slow: for a run that diverges, not for every run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.errors import DivergedError, Problem


@contextmanager
def detecting_anomalies(model: nn.Module) -> Iterator[None]:
    """Raise DivergedError, naming the module or the operation, for the first value that is not finite."""
    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    except RuntimeError as error:
        if "returned nan values" not in str(error):
            raise
        raise DivergedError(Problem("a gradient became NaN in the backward pass", found=str(error))) from error
    finally:
        for hook in hooks:
            hook.remove()


def watch(name: str) -> Any:
    """A hook that looks at a module's output; inner modules come before the outer ones that hold them."""

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and not output.isfinite().all():
            came_in = all(x.isfinite().all() for x in inputs if isinstance(x, Tensor) and x.is_floating_point())
            found = (
                f"{type(module).__name__} {name}, whose input {'was finite' if came_in else 'was not finite either'}"
            )
            raise DivergedError(Problem("a value is no longer finite in the forward pass", found=found))

    return look
