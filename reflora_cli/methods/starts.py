"""The choices of `start`: where the factors of a pair begin."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.choice import Choice, by_kind


class StartRecord(Choice):
    """What the rest of the program asks of a start instead of its name.

    moves_base: whether the frozen weight changes, so that the adapted model still equals its base. is_nonzero: whether
    B A is not zero at the start. sees_data: whether it looks at training rows. chooses_ranks: whether modules
    get ranks of their own; those of rank 0 have no adapter.
    """

    moves_base: ClassVar[bool] = False
    is_nonzero: ClassVar[bool] = False
    sees_data: ClassVar[bool] = False
    chooses_ranks: ClassVar[bool] = False


class DefaultStart(StartRecord):
    """A uniform between -1/sqrt(in) and 1/sqrt(in), and B at zero, as in PEFT and loralib."""

    kind: Literal["default"] = Field("default", description="A uniform up to 1/sqrt(in), B at zero, as in PEFT")


class GaussianStart(StartRecord):
    """A normal with deviation 1/r, and B at zero, as PEFT's `gaussian`."""

    kind: Literal["gaussian"] = Field("gaussian", description="A normal with deviation 1/r, B at zero")


class EvaStart(StartRecord):
    """A at the principal directions of each module's inputs, B at zero, and ranks by the variance that they explain."""

    kind: Literal["eva"] = Field("eva", description="A at the principal directions of a module's inputs, B at zero")
    rho: float = Field(2.0, ge=1, le=1e3, description="a module has at most rho times the rank; 1: all the same")
    tau: float = Field(0.99, gt=0, le=1, description="a direction has settled if its cosine to the one before is this")
    rows: int = Field(4096, ge=1, description="training rows to look at, at most; fewer if all directions settle")
    whiten: bool = Field(False, description="rows of A are divided by the roots of their singular values")

    source: ClassVar[str] = "Paischer et al. 2024, EVA, arXiv 2410.07170"
    sees_data: ClassVar[bool] = True
    chooses_ranks: ClassVar[bool] = True


StartChoice = Annotated[DefaultStart | GaussianStart | EvaStart, Field(discriminator="kind")]
StartKind = Literal["default", "gaussian", "eva"]
STARTS: dict[str, type[StartChoice]] = by_kind(StartChoice)
