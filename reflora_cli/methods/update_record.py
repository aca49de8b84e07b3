"""Define what the rest of the program asks of an update rule, and the fields that several rules share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from reflora_cli.methods.choice import Choice

AUTO_DAMPING = 1e-3
"""The value of `auto` in every precision. Damping removes noise of the gradients, which S^-1
multiplies by cond(B), and adds a bias. On all-MiniLM-L6-v2 with bfloat16 gradients, S^-1 gA was wrong by 1.3% (median)
and 9% (worst module) with 1e-3 as with none, and by 1.4% and 65% with 1e-2: there the bias is larger than the noise."""

WarmupSteps = Annotated[int, Field(ge=0, description="plain optimizer steps before the rule first acts")]
Interval = Annotated[
    int,
    Field(
        ge=1,
        description="steps between two computations of the rule's matrices, which are reused in between; "
        "reflora-s and balanced: steps between two refactorings",
    ),
]
RelativeDamping = Annotated[
    Annotated[float, Field(ge=0, lt=1)] | Literal["auto"],
    Field(
        description="singular values of BA are damped by this share of the largest; auto: 1e-3; below 1e-5, pairs "
        "whose BA is nearly of lower rank take plain steps"
    ),
]
"""What fields called `damping` mean, in every rule that has one: a share, which does not see how BA is factored."""
AbsoluteDamping = Annotated[
    float,
    Field(ge=1e-12, le=1e6, description="d, the absolute number that is added to the diagonals of A A^T and B^T B"),
]
"""What fields called `absolute_damping` mean: a number in the units of the Gram matrices, which depend on how BA is
factored."""


class Refactor(BaseModel):
    """When and how update rules act: the section `refactor`, whose values go to whichever rule has such a field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    warmup_steps: WarmupSteps = 100
    interval: Interval = 1
    damping: RelativeDamping = "auto"


class UpdateRecord(Choice):
    """The properties by which other modules treat an update rule, so that none of them compares its kind.

    acts: a sentence without its full stop for the model card, which says what the rule means for those who only use the
    result; empty where nothing acts. proven_for_descent: whether its paper proves something of gradient descent, which
    the card then says beside the optimizer of the run. under_adamw: a clause with its leading comma that the card
    appends to the name of AdamW, if it is known what the rule gains there. is_plain: whether nothing surrounds the
    step. needs_full_rank: whether r must be at most min(out, in) on every adapted weight. stuck_at_zero: why the rule
    cannot act while B = 0; empty where it can. corrects_balance: whether it evens out the speeds of A and B, as
    `lr_ratio` does; both together are warned of. holds_a: whether A stays where it began and B alone is trained.
    of_frames: whether it acts on frames, and not on pairs.
    """

    acts: ClassVar[str] = ""
    proven_for_descent: ClassVar[bool] = False
    under_adamw: ClassVar[str] = ""
    is_plain: ClassVar[bool] = False
    needs_full_rank: ClassVar[bool] = False
    stuck_at_zero: ClassVar[str] = ""
    corrects_balance: ClassVar[bool] = False
    holds_a: ClassVar[bool] = False
    of_frames: ClassVar[bool] = False

    @property
    def transports_moments(self) -> bool:
        """Whether it changes AdamW's moments; 8-bit optimizers are then refused."""
        return False

    @property
    def is_optimizer(self) -> bool:
        """Whether it steps A and B itself, in AdamW's place, instead of acting around that step."""
        return False

    @property
    def steps_like_adamw(self) -> bool:
        """Whether an optimizer's steps are of a size that AdamW's rates are for; it then refuses gradient descent for
        all else.
        """
        return self.is_optimizer

    @property
    def plain_steps(self) -> int:
        """The number of plain optimizer steps before the rule first acts."""
        return 0

    @property
    def damping_share(self) -> float | None:
        """The share of BA's largest singular value by which the rule smooths; None if it does not."""
        return None

    @property
    def needs_warmup_at_zero(self) -> bool:
        """Whether it must not act before plain steps have moved B away from zero."""
        return bool(self.stuck_at_zero)


class TimedUpdate(UpdateRecord):
    """A rule that acts after a warm-up of plain steps, and not anew in every step."""

    warmup_steps: WarmupSteps = 100
    interval: Interval = 1

    @property
    def plain_steps(self) -> int:
        return self.warmup_steps


class DampedUpdate(UpdateRecord):
    """A rule whose damping is a share of BA's largest singular value."""

    damping: RelativeDamping = "auto"

    @property
    def damping_share(self) -> float:
        return AUTO_DAMPING if self.damping == "auto" else self.damping
