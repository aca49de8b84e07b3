"""The choices of `start`: where the factors of a pair begin."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.choice import Choice, by_kind

Iterations = Annotated[
    Annotated[int, Field(ge=0, le=1000)] | None,
    Field(
        description="iterations of a randomized SVD, far faster on large weights (4 to 16 are enough); "
        "null: the exact SVD"
    ),
]


class StartRecord(Choice):
    """What the rest of the program asks of a start instead of its name.

    moves_base: whether the frozen weight changes, so that the adapted model still equals its base. is_nonzero: whether
    B A is not zero at the start. sees_data: whether it looks at training rows. needs_full_rank: whether it makes
    factors of full rank only, r of at most min(out, in). chooses_ranks: whether modules get ranks of their own; those
    of rank 0 have no adapter. rank_multiple: what the rank must be a multiple of. is_deficient: whether the factors
    begin with less than full rank. corrects_quantization: whether it makes up for the error of a quantized base;
    modules that are not quantized then start as by default. leaves_base: whether the adapted model begins as another
    than its base, with a step already taken.
    """

    moves_base: ClassVar[bool] = False
    is_nonzero: ClassVar[bool] = False
    sees_data: ClassVar[bool] = False
    needs_full_rank: ClassVar[bool] = False
    chooses_ranks: ClassVar[bool] = False
    rank_multiple: ClassVar[int] = 1
    is_deficient: ClassVar[bool] = False
    corrects_quantization: ClassVar[bool] = False
    leaves_base: ClassVar[bool] = False


class PartOfBaseStart(StartRecord):
    """A start whose s B A, of full rank, is taken out of the frozen weight."""

    moves_base: ClassVar[bool] = True
    is_nonzero: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True


class CorrectingStart(StartRecord):
    """A start whose s B A, of full rank, makes up for the error of a quantized weight, which may be quantized anew."""

    moves_base: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True
    corrects_quantization: ClassVar[bool] = True


class DefaultStart(StartRecord):
    """A uniform between -1/sqrt(in) and 1/sqrt(in), and B at zero, as in PEFT and loralib."""

    kind: Literal["default"] = Field("default", description="A uniform within ±1/sqrt(in), B zero, as in PEFT")


class GaussianStart(StartRecord):
    """A normal with deviation 1/r, and B at zero, as PEFT's `gaussian`."""

    kind: Literal["gaussian"] = Field("gaussian", description="A normal with standard deviation 1/r, B zero")


class PissaStart(PartOfBaseStart):
    """s B A is the part of W with its r largest singular values, and is subtracted from the frozen weight."""

    kind: Literal["pissa"] = Field(
        "pissa", description="s B A: the r largest singular triplets of W, subtracted from W"
    )
    iterations: Iterations = None

    source: ClassVar[str] = "Meng et al. 2024, PiSSA, arXiv 2404.02948"


class EvaStart(StartRecord):
    """A holds principal directions of each module's inputs, B is zero, and ranks follow the variance explained."""

    kind: Literal["eva"] = Field("eva", description="A: the principal directions of a module's inputs; B zero")
    rho: float = Field(
        2.0, ge=1, le=1e3, description="a module's rank is at most rho times method.rank; 1: all ranks are equal"
    )
    tau: float = Field(
        0.99, gt=0, le=1, description="a direction has converged once its cosine to the previous one is at least this"
    )
    rows: int = Field(4096, ge=1, description="the most training rows to look at; fewer if all directions converge")
    whiten: bool = Field(False, description="divide the rows of A by the square roots of their singular values")

    source: ClassVar[str] = "Paischer et al. 2024, EVA, arXiv 2410.07170"
    sees_data: ClassVar[bool] = True
    chooses_ranks: ClassVar[bool] = True


class MiLoRAStart(PartOfBaseStart):
    """s B A is the part of W with its r smallest singular values, and is subtracted from the frozen weight."""

    kind: Literal["milora"] = Field(
        "milora", description="s B A: the r smallest singular triplets of W, subtracted from W"
    )

    source: ClassVar[str] = "Wang et al. 2024, MiLoRA, arXiv 2406.09044"


class OLoRAStart(PartOfBaseStart):
    """B: the first r columns of Q, A: the first r rows of R, of W = Q R; s B A is subtracted from the frozen weight."""

    kind: Literal["olora"] = Field("olora", description="B and A from Q and R of W = Q R; s B A is subtracted from W")

    source: ClassVar[str] = "Buyukakyuz 2024, OLoRA, arXiv 2406.01775"


class OrthogonalStart(StartRecord):
    """A and B are random and not zero, with B A = 0, as PEFT's `orthogonal`."""

    kind: Literal["orthogonal"] = Field("orthogonal", description="A and B random and not zero, with B A = 0")

    source: ClassVar[str] = "datta0.github.io/posts/rethink-lora-init, 2024, orthogonal start in PEFT"
    rank_multiple: ClassVar[int] = 2
    is_deficient: ClassVar[bool] = True


class LoftQStart(CorrectingStart):
    """Alternately, s B A is fitted to W minus the quantized weight, and W minus s B A is quantized again."""

    kind: Literal["loftq"] = Field(
        "loftq", description="s B A approximates the error of quantizing W; both are improved in turn"
    )
    rounds: int = Field(
        5,
        ge=1,
        le=1000,
        description="alternating rounds, T in the paper; 1: the base's quantized codes stay as they are",
    )
    iterations: Iterations = None

    source: ClassVar[str] = "Li et al. 2023, LoftQ, arXiv 2310.08659"


class LQLoRAStart(CorrectingStart):
    """Alternately, s B A is fitted to W and the rest is quantized, until their sum comes no closer to W."""

    kind: Literal["lq-lora"] = Field(
        "lq-lora", description="as loftq, but s B A comes first, and rounds end when the error stops falling"
    )
    rounds: int = Field(100, ge=1, le=1000, description="the most alternating rounds; fewer if the error stops falling")
    iterations: Iterations = None

    source: ClassVar[str] = "Guo et al. 2023, LQ-LoRA, arXiv 2311.12023"


class NoraStart(StartRecord):
    """A holds random combinations of the rows of W, and B is zero."""

    kind: Literal["nora"] = Field("nora", description="A: random combinations of the rows of W; B zero")
    sigma: float = Field(0.1, gt=0, le=1e3, description="A is sigma / s times normal numbers times W")

    source: ClassVar[str] = "Li et al. 2024, NoRA, arXiv 2410.18965"


class CorDAStart(PartOfBaseStart):
    """s B A is the part of W that training rows use most, or least, and is subtracted from the frozen weight."""

    kind: Literal["corda"] = Field(
        "corda", description="s B A: the part of W that inputs use most, or least, subtracted from W"
    )
    mode: Literal["ipm", "kpm"] = Field(
        "ipm",
        description="ipm: train the part that the rows use most; kpm: train what they use least, to preserve knowledge",
    )
    rows: int = Field(256, ge=1, description="training rows to look at")

    source: ClassVar[str] = "Yang et al. 2024, CorDA, arXiv 2406.05223"
    sees_data: ClassVar[bool] = True


class LoRAGAStart(PartOfBaseStart):
    """A and B hold different singular vectors of the gradient, and s B A is subtracted from the frozen weight."""

    kind: Literal["lora-ga"] = Field("lora-ga", description="A, B: singular vectors of W's gradient; s B A subtracted")
    gamma: float = Field(
        64.0, gt=0, le=1e9, description="A and B are scaled by out^1/4 / gamma^1/2; a smaller gamma makes them larger"
    )
    rows: int = Field(64, ge=1, description="training rows whose gradient is looked at")
    iterations: Iterations = None

    source: ClassVar[str] = "Wang et al. 2024, LoRA-GA, arXiv 2407.05000"
    sees_data: ClassVar[bool] = True


class LoRAOneStart(StartRecord):
    """s B A is the strongest part of a gradient descent step on W, with which the adapted model begins."""

    kind: Literal["lora-one"] = Field("lora-one", description="s B A: a first gradient step on W, reduced to rank r")
    gamma: float = Field(128.0, gt=0, le=1e9, description="the largest singular value of s B A is s / gamma")
    rows: int = Field(64, ge=1, description="training rows whose gradient is looked at")
    iterations: Iterations = None

    source: ClassVar[str] = "Zhang, Liu, Chen 2025, LoRA-One, arXiv 2502.01235"
    sees_data: ClassVar[bool] = True
    is_nonzero: ClassVar[bool] = True
    leaves_base: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True


StartChoice = Annotated[
    DefaultStart
    | GaussianStart
    | PissaStart
    | EvaStart
    | MiLoRAStart
    | OLoRAStart
    | OrthogonalStart
    | LoftQStart
    | LQLoRAStart
    | NoraStart
    | CorDAStart
    | LoRAGAStart
    | LoRAOneStart,
    Field(discriminator="kind"),
]
StartKind = Literal[
    "default",
    "gaussian",
    "pissa",
    "eva",
    "milora",
    "olora",
    "orthogonal",
    "loftq",
    "lq-lora",
    "nora",
    "corda",
    "lora-ga",
    "lora-one",
]
STARTS: dict[str, type[StartChoice]] = by_kind(StartChoice)
