"""Find the module and the operation that first give a value that is not finite, for `--detect-anomaly`.

In the forward pass every module's output is checked, in the backward pass the gradient of every module's output, and
autograd looks for NaN at every operation. This is slow: it is for a run that diverges, not for every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reflora_cli.ground.errors import DivergedError, Problem

When = Callable[[], str]
"""A function that returns which step is under way."""


@contextmanager
def detecting_anomalies(model: nn.Module, when: When) -> Iterator[None]:
    """Raise DivergedError, naming the step and the module or the operation, for the first value that is not finite."""
    hooks = [module.register_forward_hook(watch(name, when)) for name, module in model.named_modules() if name]
    try:
        with torch.autograd.set_detect_anomaly(True):
            yield
    except RuntimeError as error:
        if "returned nan values" not in str(error):
            raise
        what = "a gradient became NaN in the backward pass"
        raise DivergedError(Problem(what, when(), found=str(error))) from error
    finally:
        for hook in hooks:
            hook.remove()


def watch(name: str, when: When) -> Any:
    """Return a hook that checks a module's output and its gradient; inner modules are checked before those that hold
    them.
    """

    def look(module: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        called = f"{type(module).__name__} {name}"
        if not output.isfinite().all():
            was_finite = all(x.isfinite().all() for x in inputs if isinstance(x, Tensor) and x.is_floating_point())
            found = f"{called}, whose input {'was finite' if was_finite else 'was not finite either'}"
            raise DivergedError(Problem("a value is no longer finite in the forward pass", when(), found))
        if output.requires_grad:
            register: Callable[[Callable[[Tensor], None]], object] = output.register_hook
            register(lambda gradient: look_at_gradient(called, gradient, when))

    return look


def look_at_gradient(called: str, gradient: Tensor, when: When) -> None:
    """Check the gradient of a module's output, which the module after it in the forward pass has made."""
    if not gradient.isfinite().all():
        what = "a gradient is no longer finite in the backward pass"
        raise DivergedError(
            Problem(what, when(), f"the gradient of the output of {called}: an operation after it made it non-finite")
        )
