"""How a pair of factors starts: B at zero, A random, so that the adapted model equals its base at step 0.

Every module draws from a generator of its own, seeded by the run's seed and the module's name: the same module starts
the same whatever else is adapted, in whatever order, on whatever device.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

from reflora_cli.methods.starts import DefaultStart, GaussianStart, StartChoice


def generator_for(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on the run's seed and the module's name only."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))


def start_factors(
    start: StartChoice, rank: int, shape: tuple[int, int], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A [r, in] and B = 0 [out, r] in float32 for a weight of `shape` (out, in).

    default: A ~ U(-1/sqrt(in), 1/sqrt(in)), as PEFT and loralib (kaiming uniform with a = sqrt 5).
    gaussian: A ~ N(0, 1/r^2), as PEFT's "gaussian".
    """
    out_features, in_features = shape
    A = torch.empty(rank, in_features)
    match start:
        case DefaultStart():
            bound = 1 / math.sqrt(in_features)
            A.uniform_(-bound, bound, generator=generator)
        case GaussianStart():
            A.normal_(std=1 / rank, generator=generator)
    return A, torch.zeros(out_features, rank)
