"""Many pairs as few tensors, so that a rule's cost on a GPU is not the launch of a thousand small kernels.

Pairs of one rank and device form a group, whose r x r matrices are stacked [N, r, r] for one factorization. Within it,
pairs of equal shapes form stacks, whose factors and gradients are multiplied together: five stacks for the 72 modules
of DeBERTa-base at rank 8.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from reflora_cli.factors.pair import FactorPair

T = TypeVar("T")
STACK_ELEMENTS = 2**23
"""A stack holds at most this many elements of A and B, 64 MiB in float64, or one pair if that is larger: it bounds the
memory beside the model."""


@dataclass(frozen=True)
class PairStack:
    """n pairs of equal shapes on one device."""

    pairs: Sequence[FactorPair]

    def grams(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return A A^T and B^T B, float64 [n, r, r], multiplied in `dtype`, on the device where they are factored."""
        place = factoring_device(self.pairs[0].A.device)
        if one_by_one(place):
            factors = ((pair.A.to(place).to(dtype), pair.B.to(place).to(dtype)) for pair in self.pairs)
            grams = [(A @ A.T, B.T @ B) for A, B in factors]
            return torch.stack([gram for gram, _ in grams]).double(), torch.stack([gram for _, gram in grams]).double()
        A = torch.stack([pair.A for pair in self.pairs]).to(dtype)
        B = torch.stack([pair.B for pair in self.pairs]).to(dtype)
        return (A @ A.mT).double(), (B.mT @ B).double()

    def precondition(self, for_b: Tensor, for_a: Tensor) -> None:
        """gA <- M gA and gB <- gB N in place, for N `for_b` and M `for_a` [n, r, r]; products run in their dtype."""
        _map_gradients([pair.A for pair in self.pairs], for_a, lambda gA, M: M @ gA)
        _map_gradients([pair.B for pair in self.pairs], for_b, lambda gB, N: gB @ N)


@dataclass(frozen=True)
class PairGroup:
    """N pairs of one rank on one device; [N, r, r] tensors follow the order of `pairs`."""

    stacks: Sequence[PairStack]

    @property
    def pairs(self) -> list[FactorPair]:
        return [pair for stack in self.stacks for pair in stack.pairs]

    @property
    def device(self) -> torch.device:
        return self.stacks[0].pairs[0].A.device

    def grams(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return A A^T and B^T B, float64 [N, r, r], multiplied in `dtype`, on the device where they are factored."""
        grams_a, grams_b = zip(*(stack.grams(dtype) for stack in self.stacks), strict=True)
        return torch.cat(grams_a), torch.cat(grams_b)

    def precondition(self, for_b: Tensor, for_a: Tensor) -> None:
        """gA <- M gA and gB <- gB N in place, for the N `for_b` and the M `for_a` of all pairs [N, r, r], which are on
        their device; products run in the dtype of these matrices."""
        sizes = [len(stack.pairs) for stack in self.stacks]
        parts = zip(self.stacks, torch.split(for_b, sizes), torch.split(for_a, sizes), strict=True)
        for stack, own_for_b, own_for_a in parts:
            stack.precondition(own_for_b, own_for_a)

    def by_name(self, key: str, matrices: Tensor) -> dict[str, Tensor]:
        """Return matrices [N, r, r] under their names, `<key>.<module>`."""
        return {f"{key}.{pair.name}": matrix for pair, matrix in zip(self.pairs, matrices, strict=True)}

    def stacked(self, key: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return the inverse of `by_name`, on the device where such matrices are made."""
        place = factoring_device(self.device)
        return torch.stack([tensors[f"{key}.{pair.name}"].to(place) for pair in self.pairs])


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64; Apple's GPUs do not."""
    return device.type != "mps"


def factoring_device(device: torch.device) -> torch.device:
    """Where the r x r matrices of pairs on `device` are factored: they need float64."""
    return device if has_float64(device) else torch.device("cpu")


def one_by_one(device: torch.device) -> bool:
    """Whether products with factors are faster without stacking them.

    On a CPU: a launch costs little there, what is stacked has left the cache before it is used, and batched products
    of tall matrices are up to ten times slower than single ones.
    """
    return device.type == "cpu"


def group_pairs(pairs: Sequence[FactorPair]) -> list[PairGroup]:
    """Return every pair in one stack of one group. Pairs may move to another device afterwards, but only all
    together."""
    groups = _partition(pairs, lambda pair: (pair.rank, pair.A.device))
    return [PairGroup([stack for alike in _partition(group, _shapes) for stack in _stacks(alike)]) for group in groups]


def groups_with_gradients(groups: Sequence[PairGroup], pairs: Sequence[FactorPair]) -> Sequence[PairGroup]:
    """Return the groups of those pairs of which both factors have a gradient. groups: those of all pairs."""
    ready = [pair for pair in pairs if pair.A.grad is not None and pair.B.grad is not None]
    return groups if len(ready) == len(pairs) else group_pairs(ready)


def scale_each(tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply each tensor in place by a scalar of its own, which stays on the device.

    torch's own `_foreach_mul_` with scalars on a GPU is a launch for each tensor.
    """
    for alike in _partition(range(len(tensors)), lambda n: (tensors[n].shape, tensors[n].device, tensors[n].dtype)):
        size = max(1, STACK_ELEMENTS // tensors[alike[0]].numel())
        for start in range(0, len(alike), size):
            chosen = alike[start : start + size]
            own, by = [tensors[n] for n in chosen], [factors[n] for n in chosen]
            if one_by_one(own[0].device):
                torch._foreach_mul_(own, by)
            else:
                scales = torch.stack(by).view(-1, *[1] * own[0].ndim)
                torch._foreach_copy_(own, (torch.stack(own) * scales).unbind())


def _stacks(pairs: Sequence[FactorPair]) -> list[PairStack]:
    """Pairs of equal shapes, cut into stacks of at most STACK_ELEMENTS."""
    size = max(1, STACK_ELEMENTS // (pairs[0].A.numel() + pairs[0].B.numel()))
    return [PairStack(pairs[start : start + size]) for start in range(0, len(pairs), size)]


def _partition(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Return classes of items with equal keys, in the order in which they first occur."""
    classes: dict[Hashable, list[T]] = {}
    for item in items:
        classes.setdefault(key(item), []).append(item)
    return list(classes.values())


def _shapes(pair: FactorPair) -> Hashable:
    return pair.A.shape, pair.B.shape, pair.A.dtype, pair.B.dtype


def _map_gradients(
    parameters: Sequence[nn.Parameter], matrices: Tensor, product: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Overwrite every gradient that is not None by its product with its matrix; in place, as DDP's buckets require."""
    if one_by_one(parameters[0].device):
        for parameter, matrix in zip(parameters, matrices.unbind(), strict=True):
            gradient = parameter.grad
            if gradient is not None:
                gradient.copy_(product(gradient.to(matrices.dtype), matrix))
        return
    present = [n for n, parameter in enumerate(parameters) if parameter.grad is not None]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return
    if len(present) < len(parameters):
        matrices = matrices[present]
    mapped = product(torch.stack(gradients).to(matrices.dtype), matrices).to(gradients[0].dtype)
    torch._foreach_copy_(gradients, mapped.unbind())


def mapped(product: Callable[..., Tensor], *arguments: Sequence[Tensor] | Tensor) -> list[Tensor]:
    """Return `product` of the n-th of all arguments for every n, where a tensor [N, ...] stands for its N parts.

    product: made of matrix products and sums, so that it does to stacks [n, ...] what it does to their parts.
    """
    lists = [list(own.unbind()) if isinstance(own, Tensor) else list(own) for own in arguments]
    if one_by_one(lists[0][0].device):
        return [product(*own) for own in zip(*lists, strict=True)]
    found: dict[int, Tensor] = {}
    for alike in _partition(range(len(lists[0])), lambda n: tuple(own[n].shape for own in lists)):
        size = max(1, STACK_ELEMENTS // max(own[alike[0]].numel() for own in lists))
        for start in range(0, len(alike), size):
            chosen = alike[start : start + size]
            stacks = [torch.stack([own[n] for n in chosen]) for own in lists]
            found |= zip(chosen, product(*stacks).unbind(), strict=True)
    return [found[n] for n in range(len(lists[0]))]
