"""The axes of a method that are chosen by a name, each an enum: they need neither torch nor pydantic.

`methods.py` makes a record of them for recipes; the layers and the update rules read the one that concerns them.
"""

from __future__ import annotations

from enum import StrEnum


class Layer(StrEnum):
    """How the adapted weight is computed from W, A and B."""

    LORA = "lora"
    DORA = "dora"


class Init(StrEnum):
    """How A starts (B starts at zero): uniform as in PEFT and loralib, or normal with deviation 1/r."""

    DEFAULT = "default"
    GAUSSIAN = "gaussian"


class Update(StrEnum):
    """What happens to a pair of factors around the optimizer's step."""

    PLAIN = "plain"
    REFLORA = "reflora"
    REFLORA_S = "reflora-s"
    SCALED_GD = "scaled-gd"

    @property
    def is_preconditioning(self) -> bool:
        """Whether the rule multiplies gradients by matrices made of both factors: they exist for factors of full rank,
        so r is at most min(out, in), and not yet at B = 0."""
        return self in (Update.REFLORA, Update.SCALED_GD)


class Scaling(StrEnum):
    """s in `W + s B A`: alpha / r, or alpha / sqrt(r)."""

    STANDARD = "standard"
    RSLORA = "rslora"
