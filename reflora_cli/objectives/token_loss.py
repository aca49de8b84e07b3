"""Compute cross-entropy over the vocabulary without holding the logits of a batch.

Only hidden states at supervised positions come in. They go through the head a chunk at a time, and the gradient of a
chunk is taken at once, while its logits exist: for the backward pass one vector per supervised token remains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F

from reflora_cli.model.language import logits_of, trained_head_parameters, vocabulary

CHUNK_ELEMENTS = {"cpu": 1 << 22, "cuda": 1 << 26}
"""The most logits that exist at a time: on a CPU 16 MiB in float32, and about three times that with what their loss
keeps. There are more on a GPU, which would otherwise wait for the head's weight to be read again and again."""

LOGIT_BYTES = 12
"""The bytes that a logit takes while its loss is computed: itself, its logarithm and its gradient, in float32."""

MEMORY_SHARE = 64
"""Logits may take one part in so many of a GPU's memory."""


def token_loss(model: Any, hidden: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the summed negative log-likelihood, float32. hidden: [n, width]; targets: [n] token ids.

    smoothing: the share of each target that all tokens have alike (label smoothing, Szegedy et al. 2016, arXiv
    1512.00567): the loss is (1 - smoothing) -log p(target) + smoothing mean(-log p).
    It is differentiable in `hidden` and in the trained parameters of the head.
    """
    if torch.is_grad_enabled():
        apply: Callable[..., Tensor] = ChunkedLoss.apply
        return apply(model, targets, smoothing, hidden, *trained_head_parameters(model))
    total = torch.zeros((), device=hidden.device)
    for part in chunks(model, targets):
        total += summed_loss(logits_of(model, hidden[part]), targets[part], smoothing)
    return total


def summed_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)


@torch.no_grad()
def token_log_likelihoods(model: Any, hidden: Tensor, targets: Tensor) -> Tensor:
    """Return the log-likelihood of each target, float32 [n]. hidden: [n, width]; targets: [n] token ids."""
    found = [
        -F.cross_entropy(logits_of(model, hidden[part]), targets[part], reduction="none")
        for part in chunks(model, targets)
    ]
    return torch.cat(found) if found else torch.zeros(0, device=hidden.device)


def chunks(model: Any, targets: Tensor) -> Iterator[slice]:
    """Yield slices of tokens, each with few enough logits to exist at a time."""
    device = targets.device
    size = chunk_tokens(model, device.type, memory_of(device))
    return (slice(start, start + size) for start in range(0, len(targets), size))


def chunk_tokens(model: Any, device: str, memory: int | None = None) -> int:
    """Return the number of tokens whose logits exist at a time on a device of this type. memory: its bytes; None: more
    than enough."""
    return max(1, chunk_elements(device, memory) // vocabulary(model))


def chunk_elements(device: str, memory: int | None) -> int:
    """Return the number of logits that exist at a time. It depends on all of a device's memory, not on what is free,
    and is a power of two: sums must not be rounded otherwise when a run continues.
    """
    most, least = CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS["cpu"]), CHUNK_ELEMENTS["cpu"]
    if memory is None:
        return most
    fitting: int = 1 << max(memory // (MEMORY_SHARE * LOGIT_BYTES), 1).bit_length() - 1
    return min(most, max(least, fitting))


def memory_of(device: torch.device) -> int | None:
    """Return the bytes of a GPU's memory; None for other devices."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def as_it_is(tensor: Tensor) -> Tensor:
    """Return what is saved for a backward pass, and what comes back: the tensor itself."""
    return tensor


class ChunkedLoss(torch.autograd.Function):
    """The summed loss; its gradients are computed in the forward pass, chunk by chunk.

    What a chunk keeps for its gradient, which is taken at once, stays where it is whatever the pass does with all else.
    """

    @staticmethod
    def forward(ctx: Any, model: Any, targets: Tensor, smoothing: float, hidden: Tensor, *parameters: Tensor) -> Tensor:
        total = torch.zeros((), device=hidden.device)
        gradient = torch.empty_like(hidden)
        trained = [torch.zeros_like(parameter) for parameter in parameters]
        for part in chunks(model, targets):
            with torch.enable_grad(), saved_tensors_hooks(as_it_is, as_it_is):
                states = hidden[part].detach().requires_grad_()
                loss = summed_loss(logits_of(model, states), targets[part], smoothing)
            gradient[part], *others = torch.autograd.grad(loss, (states, *parameters))
            for own, other in zip(trained, others, strict=True):
                own.add_(other)
            total += loss.detach()
        ctx.save_for_backward(gradient, *trained)
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        # In float32: a loss scale of 65536 is beyond float16.
        return (None, None, None, *((saved.float() * upstream[0]).to(saved.dtype) for saved in ctx.saved_tensors))
