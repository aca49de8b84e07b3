"""The choices of `update`: what surrounds the optimizer's step of a pair of factors."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from reflora_cli.methods.choice import by_kind, refusal
from reflora_cli.methods.starts import StartRecord
from reflora_cli.methods.update_record import (
    AbsoluteDamping,
    DampedUpdate,
    TimedUpdate,
    UpdateRecord,
    WarmupSteps,
)


class PlainUpdate(UpdateRecord):
    """The optimizer's own step of A and B."""

    kind: Literal["plain"] = Field("plain", description="the optimizer's own step")
    is_plain: ClassVar[bool] = True


class RefLoRAUpdate(DampedUpdate, TimedUpdate):
    """Gradients multiplied by S and its inverse before the step, where S A A^T S = B^T B."""

    kind: Literal["reflora"] = Field("reflora", description="gradients preconditioned by S before the step")

    source: ClassVar[str] = "Zhang, Li, Giannakis 2025, RefLoRA, arXiv 2505.18877"
    acts: ClassVar[str] = "RefLoRA changes only the steps of training: the trained factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    under_adamw: ClassVar[str] = ", under which LoRA mostly does as well"
    needs_full_rank: ClassVar[bool] = True
    stuck_at_zero: ClassVar[str] = "the optimal S is 0 and nothing would move"
    corrects_balance: ClassVar[bool] = True


class RefLoRASUpdate(TimedUpdate):
    """Factors and AdamW's moments are rescaled after the step so that A and B have equal norms: the scalar RefLoRA."""

    kind: Literal["reflora-s"] = Field("reflora-s", description="factors rebalanced after the step")

    source: ClassVar[str] = "Zhang, Li, Giannakis 2025, RefLoRA, arXiv 2505.18877"
    acts: ClassVar[str] = "RefLoRA-S keeps A and B equal in norm while they are trained: the factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    under_adamw: ClassVar[str] = ", under which LoRA mostly does as well"
    corrects_balance: ClassVar[bool] = True

    @property
    def transports_moments(self) -> bool:
        return True


class ScaledGDUpdate(DampedUpdate, TimedUpdate):
    """Gradients multiplied by the inverse Gram matrix of the other factor before the step."""

    kind: Literal["scaled-gd"] = Field("scaled-gd", description="gradients preconditioned by inverse Gram matrices")

    source: ClassVar[str] = (
        "Tong, Ma, Chi 2020, ScaledGD, arXiv 2005.08898; Zhang, Pilanci 2024, for LoRA, arXiv 2402.02347"
    )
    acts: ClassVar[str] = "ScaledGD changes only the steps of training: the trained factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True
    stuck_at_zero: ClassVar[str] = "the Gram matrix B^T B has no inverse"
    corrects_balance: ClassVar[bool] = True


class LoRARITEUpdate(DampedUpdate):
    """An optimizer of pairs with moments in frames of BA, whose steps do not depend on how BA is factored."""

    kind: Literal["lora-rite"] = Field(
        "lora-rite", description="A and B stepped by LoRA-RITE, all other parameters by AdamW"
    )
    damping: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | Literal["auto"],
        Field(
            description="a share of the largest singular value of BA: in directions in which BA is weaker, steps of A "
            "are shortened; it also smooths second moments; auto: 1e-3"
        ),
    ] = "auto"

    source: ClassVar[str] = "Yen et al. 2024, LoRA-RITE, arXiv 2410.20625"
    acts: ClassVar[str] = "LoRA-RITE stepped A and B in training, and AdamW all else: the factors are used as LoRA's"
    needs_full_rank: ClassVar[bool] = True
    corrects_balance: ClassVar[bool] = True

    @property
    def is_optimizer(self) -> bool:
        return True


class BalancedUpdate(TimedUpdate):
    """Factors are given equal Gram matrices after the step, and their product is unchanged."""

    kind: Literal["balanced"] = Field("balanced", description="A A^T = B^T B after the step, BA unchanged")
    warmup_steps: WarmupSteps = 0
    moments: Literal["keep", "transport"] = Field(
        "keep",
        description="AdamW's moments when factors are balanced; keep: unchanged, as published; transport: transformed "
        "with the factors (experimental)",
    )

    source: ClassVar[str] = "Castin et al. 2026, BaLoRA, arXiv 2605.31484"
    acts: ClassVar[str] = "BaLoRA keeps A A^T equal to B^T B while they are trained: the factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True
    corrects_balance: ClassVar[bool] = True

    @property
    def transports_moments(self) -> bool:
        return self.moments == "transport"


class LoRAProUpdate(DampedUpdate):
    """Gradients of A and B changed so that both steps together are closest to a step of the full weight."""

    kind: Literal["lora-pro"] = Field(
        "lora-pro", description="steps of A and B whose effect is closest to a step of the full weight"
    )
    moments: Literal["factors", "dense"] = Field(
        "factors",
        description="what AdamW's moments are of; factors: the steps of A and B; dense: the step of the full weight, "
        "as published, which takes two float32 matrices of its size in memory and in checkpoints",
    )

    source: ClassVar[str] = "Wang et al. 2024, LoRA-Pro, arXiv 2407.18242"
    acts: ClassVar[str] = "LoRA-Pro changes only the steps of training: the trained factors are used as LoRA's"
    needs_full_rank: ClassVar[bool] = True
    corrects_balance: ClassVar[bool] = True

    @property
    def is_optimizer(self) -> bool:
        return self.moments == "dense"


class LoRAFAUpdate(UpdateRecord):
    """A keeps its initial values, and only B is trained."""

    kind: Literal["lora-fa"] = Field("lora-fa", description="A keeps its initial values, only B is trained")
    gradients: Literal["own", "projected"] = Field(
        "own",
        description="gradients of B; own: unchanged; projected: those with which W's step is the projection of W's "
        "gradient on the rows of A",
    )

    source: ClassVar[str] = "Zhang et al. 2023, LoRA-FA, arXiv 2308.03303"
    acts: ClassVar[str] = "LoRA-FA trained B and left A where it began: the factors are used as LoRA's"
    holds_a: ClassVar[bool] = True


class PrecLoRAUpdate(TimedUpdate):
    """Gradients multiplied by the inverse of the other factor's Gram matrix plus a multiple of the identity."""

    kind: Literal["preclora"] = Field(
        "preclora", description="gradients preconditioned by inverses of Gram matrices plus d I"
    )
    warmup_steps: WarmupSteps = 0
    absolute_damping: AbsoluteDamping = 1e-6

    source: ClassVar[str] = "Zhang, Pilanci 2024, Riemannian preconditioned LoRA, arXiv 2402.02347"
    acts: ClassVar[str] = "PrecLoRA changes only the steps of training: the trained factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    corrects_balance: ClassVar[bool] = True


class NormalizedScaledGDUpdate(TimedUpdate):
    """PrecLoRA's preconditioning, with its matrices divided by their norms."""

    kind: Literal["normalized-scaled-gd"] = Field(
        "normalized-scaled-gd", description="as preclora, with matrices scaled to Frobenius norm 1"
    )
    warmup_steps: WarmupSteps = 0
    absolute_damping: AbsoluteDamping = 1e-6

    source: ClassVar[str] = "Li et al. 2024, NoRA+, arXiv 2410.18965"
    acts: ClassVar[str] = "NoRA+ changes only the steps of training: the trained factors are used as LoRA's"


class AltLoRAUpdate(DampedUpdate):
    """An optimizer of pairs that steps one factor at a time, as closely to the weight's gradient as it can."""

    kind: Literal["altlora"] = Field(
        "altlora", description="A and B stepped in turn by AltLoRA, all else by train.optimizer"
    )
    moments: Literal["first", "both"] = Field(
        "first",
        description="first: AltLoRA, with learning rates of gradient descent; both: AltLoRA+, with rates like AdamW's",
    )

    source: ClassVar[str] = "Yu et al. 2025, AltLoRA, arXiv 2505.12455"
    acts: ClassVar[str] = "AltLoRA stepped A and B in turn in training: the factors are used as LoRA's"
    needs_full_rank: ClassVar[bool] = True
    corrects_balance: ClassVar[bool] = True

    @property
    def is_optimizer(self) -> bool:
        return True

    @property
    def steps_like_adamw(self) -> bool:
        return self.moments == "both"


class StiefelUpdate(UpdateRecord):
    """Steps of orthonormal frames along their manifold: Riemannian gradients before, a retraction after."""

    kind: Literal["stiefel"] = Field("stiefel", description="orthonormal frames stepped along their manifold")
    retraction: Literal["polar", "exp_map"] = Field(
        "polar",
        description="how a step returns to the manifold: polar, to the nearest frame; exp_map, along a geodesic",
    )
    width: Annotated[int, Field(ge=1)] | Literal["hidden", "none"] = Field(
        "hidden",
        description="steps of frames of height m are scaled by sqrt(width / m); hidden: the model's hidden size, or "
        "the most common height if that is not known; none: no scaling",
    )

    source: ClassVar[str] = "Li et al. 2025, StelLA, arXiv 2510.01938"
    acts: ClassVar[str] = (
        "StelLA keeps U and V of U S V^T orthonormal while they are trained: the adapter holds V^T as A and U S as B, "
        "which are used as LoRA's factors"
    )
    needs_full_rank: ClassVar[bool] = True
    of_frames: ClassVar[bool] = True


UpdateChoice = Annotated[
    PlainUpdate
    | RefLoRAUpdate
    | RefLoRASUpdate
    | ScaledGDUpdate
    | LoRARITEUpdate
    | BalancedUpdate
    | LoRAProUpdate
    | LoRAFAUpdate
    | PrecLoRAUpdate
    | NormalizedScaledGDUpdate
    | AltLoRAUpdate
    | StiefelUpdate,
    Field(discriminator="kind"),
]
UpdateKind = Literal[
    "plain",
    "reflora",
    "reflora-s",
    "scaled-gd",
    "lora-rite",
    "balanced",
    "lora-pro",
    "lora-fa",
    "preclora",
    "normalized-scaled-gd",
    "altlora",
    "stiefel",
]
UPDATES: dict[str, type[UpdateChoice]] = by_kind(UpdateChoice)


def check_start(update: UpdateChoice, begins_at_zero: bool) -> None:
    """Raises a refusal for a rule that would act at once on B = 0 and cannot. begins_at_zero: whether B is zero."""
    if begins_at_zero and update.needs_warmup_at_zero and update.plain_steps == 0:
        raise refusal(
            "update.warmup_steps",
            f"method.update={update} cannot act with warmup_steps 0: at B = 0 {update.stuck_at_zero}",
            "raise warmup_steps to at least 1",
        )


def check_ratio(update: UpdateChoice, lr_ratio: float) -> None:
    """Raises a refusal for a ratio of the rates of B and A where only B is trained."""
    if update.holds_a and lr_ratio != 1:
        reason = f"method.lr_ratio={lr_ratio:g} is for A and B, and method.update={update} trains B alone"
        raise refusal("lr_ratio", reason, "set method.lr_ratio=1, and train.learning_rate to the rate of B", "update")


def check_factors(update: UpdateChoice, start: StartRecord, rank: int) -> None:
    """Raises a refusal for factors that the start cannot make at this rank, or the rule cannot step."""
    if rank % start.rank_multiple:
        reason = (
            f"method.start={start} needs a rank that is a multiple of {start.rank_multiple}, and method.rank is {rank}"
        )
        raise refusal("rank", reason, f"set method.rank to a multiple of {start.rank_multiple}", also="start")
    if start.is_deficient and update.needs_full_rank and update.plain_steps == 0:
        reason = (
            f"method.start={start} makes factors of less than full rank, and method.update={update}, which acts at "
            "once, needs full rank"
        )
        raise refusal("start", reason, "set method.start=default, or another method.update", also="update")


def check_layer(update: UpdateChoice, layer: str, has_pairs: bool, has_frames: bool) -> None:
    """Raises a refusal for a rule that acts on what the layer of this name does not train."""
    if update.is_plain or (has_frames if update.of_frames else has_pairs):
        return
    what, trained = ("orthonormal frames", "has") if update.of_frames else ("pairs A, B", "trains")
    reason = f"method.update={update} is for {what}, and method.layer={layer} {trained} none"
    remedy = "set method.update=plain, or method.name to the preset of this layer"
    raise refusal("update", reason, remedy, also="layer")
