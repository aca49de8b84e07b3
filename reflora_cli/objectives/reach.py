"""Find the modules and parameters that a task uses, on which its loss depends, with one row before anything is adapted.

Some models have modules that a task never uses: a pooler beside the head, projections of the last layer for places that
the head does not read, weights that are read without their module being called. An adapter there would never be
trained.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

INNER_NUMBER = re.compile(r"(.*\.\d+\..*\.)\d+(\..*)?")
"""A path with a number below a block's own number: one of several modules, experts, of which a token is sent to a
few."""


def unused_parameters(model: nn.Module, names: Sequence[str], read: Callable[[], Tensor]) -> list[str]:
    """Return those of the named parameters from which nothing leads to the result of `read`, in the given order.

    read: a forward pass through the model without dropout. A parameter of an expert to which no token was sent counts
    as used if another expert's in its place was used.
    """
    parameters = {name: model.get_parameter(name) for name in names}
    with torch.enable_grad(), learning(parameters.values()):
        outcome = read().float()
        if not outcome.requires_grad:
            return list(names)
        found = torch.autograd.grad(outcome.sum(), list(parameters.values()), allow_unused=True)
    used = {name for name, gradient in zip(names, found, strict=True) if gradient is not None}
    alike = {place(name) for name in used}
    return [name for name in names if name not in used and not (place(name) != name and place(name) in alike)]


@contextmanager
def learning(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters have gradients while the context lasts."""
    before = [(parameter, parameter.requires_grad) for parameter in parameters]
    for parameter, _ in before:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter, had in before:
            parameter.requires_grad_(had)


def unused_modules(model: nn.Module, names: Sequence[str], read: Callable[[], Tensor]) -> list[str]:
    """Return those of the named modules on which the result of `read` does not depend, in the model's order.

    read: a forward pass through the model without dropout. An expert to which no token was sent counts as used if
    another expert in its place was used.
    """
    with torch.enable_grad(), tapped(model, names) as taps:
        outcome = read().float()
        weights = torch.randn(outcome.shape, generator=torch.Generator().manual_seed(0)).to(outcome.device)
        flat = [(name, tap) for name, own in taps.items() for tap in own]
        if not outcome.requires_grad or not flat:
            return list(names)
        gradients = torch.autograd.grad((outcome * weights).sum(), [tap for _, tap in flat], allow_unused=True)
    reached = {
        name for (name, _), gradient in zip(flat, gradients, strict=True) if gradient is not None and gradient.any()
    }
    alike = {place(name) for name in reached}
    return [name for name in names if name not in reached and not (name not in taps and place(name) in alike)]


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Add zeros to every output of the named modules while the context lasts; a gradient that reaches them reaches the
    module.

    Yields the zeros by module, for the modules that were called. A call whose input is all zeros, of which no adapter
    could make anything, has none.
    """
    taps: dict[str, list[Tensor]] = {}

    def tap(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            own = taps.setdefault(name, [])
            if not inputs[0].any():
                return output
            own.append(torch.zeros_like(output, requires_grad=True))
            return output + own[-1]

        return add

    handles = [model.get_submodule(name).register_forward_hook(tap(name)) for name in names]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def place(name: str) -> str:
    """Return the path with a star for the last of several numbers, which is the same for all experts of one block."""
    match = INNER_NUMBER.fullmatch(name)
    return f"{match[1]}*{match[2] or ''}" if match else name
