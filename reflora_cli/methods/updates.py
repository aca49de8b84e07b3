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
    acts: ClassVar[str] = "RefLoRA acts on the steps of training: the factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    under_adamw: ClassVar[str] = ", under which LoRA mostly does as well"
    needs_full_rank: ClassVar[bool] = True
    stuck_at_zero: ClassVar[str] = "the optimal S is 0 and nothing would move"
    corrects_balance: ClassVar[bool] = True


class RefLoRASUpdate(TimedUpdate):
    """Factors rescaled to equal norms after the step, AdamW's moments with them: RefLoRA's scalar variant."""

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

    kind: Literal["scaled-gd"] = Field("scaled-gd", description="gradients preconditioned by inverse Grams")

    source: ClassVar[str] = (
        "Tong, Ma, Chi 2020, ScaledGD, arXiv 2005.08898; Zhang, Pilanci 2024, for LoRA, arXiv 2402.02347"
    )
    acts: ClassVar[str] = "ScaledGD acts on the steps of training: the factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    needs_full_rank: ClassVar[bool] = True
    stuck_at_zero: ClassVar[str] = "the Gram matrix B^T B has no inverse"
    corrects_balance: ClassVar[bool] = True


class LoRARITEUpdate(DampedUpdate):
    """An optimizer of pairs with moments in frames of BA, whose steps do not depend on how BA is factored."""

    kind: Literal["lora-rite"] = Field("lora-rite", description="A and B stepped by LoRA-RITE, all else by AdamW")
    damping: Annotated[
        Annotated[float, Field(ge=0, lt=1)] | Literal["auto"],
        Field(
            description="steps of A in directions in which BA is weaker than this share of its largest singular value "
            "are shortened, and second moments are smoothed by it; auto: 1e-3"
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
    """Factors given equal Gram matrices after the step, their product unchanged."""

    kind: Literal["balanced"] = Field("balanced", description="A A^T = B^T B after the step, BA unchanged")
    warmup_steps: WarmupSteps = 0
    moments: Literal["keep", "transport"] = Field(
        "keep",
        description="what becomes of AdamW's moments when factors are balanced; keep: nothing, as published; "
        "transport: they follow, an experiment",
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
    """Gradients made steps that together are closest to the step of the weight."""

    kind: Literal["lora-pro"] = Field("lora-pro", description="steps of A and B that are closest to that of the weight")
    moments: Literal["factors", "dense"] = Field(
        "factors",
        description="of what AdamW keeps moments; factors: of the steps of A and B; dense: of the weight's, as "
        "published, two matrices as large as every adapted weight, in float32, in memory and in checkpoints",
    )

    source: ClassVar[str] = "Wang et al. 2024, LoRA-Pro, arXiv 2407.18242"
    acts: ClassVar[str] = "LoRA-Pro acts on the steps of training: the factors are used as LoRA's"
    needs_full_rank: ClassVar[bool] = True
    corrects_balance: ClassVar[bool] = True

    @property
    def is_optimizer(self) -> bool:
        return self.moments == "dense"


class LoRAFAUpdate(UpdateRecord):
    """A held where it began, and B alone stepped."""

    kind: Literal["lora-fa"] = Field("lora-fa", description="A stays where it began, B alone is trained")
    gradients: Literal["own", "projected"] = Field(
        "own",
        description="those of B; own: as they are; projected: those with which W's step is the projection of its own "
        "gradient on the rows of A",
    )

    source: ClassVar[str] = "Zhang et al. 2023, LoRA-FA, arXiv 2308.03303"
    acts: ClassVar[str] = "LoRA-FA trained B and left A where it began: the factors are used as LoRA's"
    holds_a: ClassVar[bool] = True


class PrecLoRAUpdate(TimedUpdate):
    """Gradients multiplied by the inverse of the other factor's Gram matrix plus a multiple of the identity."""

    kind: Literal["preclora"] = Field("preclora", description="gradients preconditioned by inverses of Grams plus d I")
    warmup_steps: WarmupSteps = 0
    absolute_damping: AbsoluteDamping = 1e-6

    source: ClassVar[str] = "Zhang, Pilanci 2024, Riemannian preconditioned LoRA, arXiv 2402.02347"
    acts: ClassVar[str] = "PrecLoRA acts on the steps of training: the factors are used as LoRA's"
    proven_for_descent: ClassVar[bool] = True
    corrects_balance: ClassVar[bool] = True


class NormalizedScaledGDUpdate(TimedUpdate):
    """PrecLoRA's gradients with its matrices divided by their norms."""

    kind: Literal["normalized-scaled-gd"] = Field(
        "normalized-scaled-gd", description="the same as preclora, by matrices of Frobenius norm 1"
    )
    warmup_steps: WarmupSteps = 0
    absolute_damping: AbsoluteDamping = 1e-6

    source: ClassVar[str] = "Li et al. 2024, NoRA+, arXiv 2410.18965"
    acts: ClassVar[str] = "NoRA+ acts on the steps of training: the factors are used as LoRA's"


class AltLoRAUpdate(DampedUpdate):
    """An optimizer of pairs that steps one factor at a time, as closely to the weight's gradient as it can."""

    kind: Literal["altlora"] = Field("altlora", description="B and A stepped in turn by AltLoRA, all else by train's")
    moments: Literal["first", "both"] = Field(
        "first",
        description="first: AltLoRA, at rates of gradient descent on the weight; both: AltLoRA+, at rates like AdamW's",
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
        "polar", description="back to the manifold by the nearest frame, or along a geodesic"
    )
    width: Annotated[int, Field(ge=1)] | Literal["hidden", "none"] = Field(
        "hidden",
        description="frames of another height m step sqrt(width / m) times as far; hidden: the model's hidden size, or "
        "the commonest height where that is not known; none: all step alike",
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
            f"update {update} with warmup_steps 0 cannot start: at B = 0 {update.stuck_at_zero}",
            "raise warmup_steps to at least 1",
        )


def check_ratio(update: UpdateChoice, lr_ratio: float) -> None:
    """Raises a refusal for a ratio of the rates of B and A where only B is trained."""
    if update.holds_a and lr_ratio != 1:
        reason = f"lr_ratio {lr_ratio:g} is the rate of B over that of A, and update {update} trains no A"
        raise refusal("lr_ratio", reason, "set method.lr_ratio=1, and train.learning_rate to the rate of B", "update")


def check_factors(update: UpdateChoice, start: StartRecord, rank: int) -> None:
    """Raises a refusal for factors that the start cannot make at this rank, or the rule cannot step."""
    if rank % start.rank_multiple:
        reason = f"start {start} needs a rank that is a multiple of {start.rank_multiple}, and rank is {rank}"
        raise refusal("rank", reason, "set method.rank to one", also="start")
    if start.is_deficient and update.needs_full_rank and update.plain_steps == 0:
        reason = f"start {start} makes factors of less than full rank, and update {update} acts at once and needs it"
        raise refusal("start", reason, "set method.start=default, or another update rule", also="update")


def check_layer(update: UpdateChoice, layer: str, has_pairs: bool, has_frames: bool) -> None:
    """Raises a refusal for a rule that acts on what the layer of this name does not train."""
    if update.is_plain or (has_frames if update.of_frames else has_pairs):
        return
    what, trained = ("orthonormal frames", "has") if update.of_frames else ("pairs A, B", "trains")
    reason = f"update {update} is for {what}, and layer {layer} {trained} none"
    raise refusal("update", reason, "set method.update=plain, or name the preset of this layer", also="layer")
