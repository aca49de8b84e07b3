"""A fine-tuning method as data: one frozen record of the choices of `layers.py`, `starts.py` and `updates.py`, and of
numbers. A preset only fills the record in; every field can be set by hand.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.choice import Named, refusal
from reflora_cli.methods.layer_record import OF_ADAPTERS, OF_PAIRS
from reflora_cli.methods.layers import LAYERS, LayerChoice, LoRALayer, check_settings
from reflora_cli.methods.presets import DEFAULT, PRESETS
from reflora_cli.methods.spelling import spelled_out
from reflora_cli.methods.starts import DefaultStart, StartChoice
from reflora_cli.methods.update_record import Refactor
from reflora_cli.methods.updates import PlainUpdate, UpdateChoice, check_factors, check_layer, check_ratio, check_start

AXES = ("layer", "start", "update", "scaling", "lr_ratio")
"""The fields that a preset fills in."""

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
"""YAML has lists only; records keep tuples."""


def replaced_by(preset: object) -> tuple[str, ...]:
    """Return the fields that earlier layers of a recipe set in vain where a later one chooses this preset.

    One with whose layer settings of adapters mean nothing replaces these too. One that trains the base itself or
    virtual tokens also replaces the targets: `full` is the whole model, whatever modules a recipe adapts; and so does
    one whose layer has places of its own in a block.
    """
    layer = PRESETS[preset].settings.get("layer") if isinstance(preset, str) and preset in PRESETS else None
    if layer not in LAYERS:
        return AXES
    own = LAYERS[layer]
    has_targets = not (own.in_place or own.is_virtual or own.places)
    return (*dict.fromkeys((*AXES, *own.meaningless)), *(() if has_targets else ("targets",)))


def read(_: Refactor) -> Refactor:
    """Return the empty section: once a method is checked, its update rule has the values."""
    return Refactor()


class Method(BaseModel):
    """A fine-tuning method: the `method:` section of a recipe.

    A choice is given as a mapping, by its kind alone, or as a record. `refactor` is only read: what it says is in
    `update`, if the rule has such a field, and it is left out of what is written.

    Raises pydantic's ValidationError for values out of range and for refused combinations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(
        DEFAULT,
        description="a preset; it sets layer, start, update, scaling and lr_ratio",
        json_schema_extra={"enum": [*PRESETS]},
    )
    after: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="a run or adapter directory, reflora's or PEFT's, to continue from; it decides rank, alpha, "
        "scaling, layer and targets; null: new factors",
    )
    rank: int = Field(8, ge=1, le=2**16, description="r: rows of A, columns of B")
    alpha: float = Field(8.0, gt=0, le=1e9, description="the update is scaled by alpha / r, or alpha / sqrt(r)")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    targets: Names | Literal["all-linear"] = Field(
        "all-linear", description="name suffixes or regular expressions of the modules to adapt"
    )
    trainable_modules: Names | Literal["auto"] = Field(
        "auto",
        description="modules trained and saved whole; auto: the task's head and everything the base checkpoint lacks",
    )
    layer: LayerChoice = Field(LoRALayer(), description="how the adapted weight is computed")
    start: StartChoice = Field(DefaultStart(), description="how A and B are initialized")
    update: UpdateChoice = Field(PlainUpdate(), description="how the optimizer's steps of A and B are changed")
    scaling: Annotated[Scaling, Named] = Field(
        Scaling.STANDARD, description="standard: alpha / r; rslora: alpha / sqrt(r)"
    )
    lr_ratio: float = Field(1.0, gt=0, le=1e9, description="learning rate of B divided by that of A (LoRA+)")
    refactor: Annotated[Refactor, AfterValidator(read)] = Field(
        Refactor(), exclude=True, repr=False, description="settings of the update rule, whichever method.update is"
    )

    @field_validator("name")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"unknown method {name!r}; presets: {', '.join(PRESETS)}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = values.get("name", DEFAULT)
        known = isinstance(name, str) and name in PRESETS
        # A wrong name is told by itself: it should not make fields of choices unknown too.
        return spelled_out(values, PRESETS[name if known else DEFAULT].settings)

    @model_validator(mode="after")
    def _refuse_what_makes_no_sense(self) -> Method:
        if not self.targets:
            raise refusal(
                "targets",
                "method.targets is empty, so nothing would be adapted",
                "name modules, or set method.targets=all-linear",
            )
        if self.layer.is_virtual and self.targets != "all-linear":
            reason = f"method.layer={self.layer} puts virtual tokens before rows and adapts no module"
            raise refusal("targets", reason, "leave method.targets out")
        usual = {key: type(self).model_fields[key].default for key in (*OF_PAIRS, *OF_ADAPTERS)}
        check_settings(self.layer, {key: getattr(self, key) for key in usual}, usual)
        check_layer(self.update, str(self.layer), self.layer.has_pairs, self.layer.has_frames)
        if self.after is not None and self.start.sees_data:
            reason = f"method.start={self.start} would have no effect: A and B continue from method.after"
            raise refusal("start", reason, "set method.start=default", also="after")
        if self.after is None:
            check_factors(self.update, self.start, self.rank)
        # The factors of an earlier adapter are looked at when they are read.
        self.layer.check_rank(self.rank)
        check_ratio(self.update, self.lr_ratio)
        check_start(self.update, begins_at_zero=self.after is None and not self.start.is_nonzero)
        return self

    @property
    def needs_full_rank(self) -> bool:
        """Whether layer, update rule or start are defined only for factors of full rank: r of at most min(out, in)."""
        needed = self.layer.needs_full_rank or self.update.needs_full_rank
        return needed or (self.after is None and self.start.needs_full_rank)

    @property
    def summary(self) -> str:
        """The label, with rank, alpha and virtual tokens where they count."""
        numbers = {"rank": f"rank {self.rank}", "alpha": f"alpha {self.alpha:g}"}
        tokens = [f"{self.layer.reserved} virtual tokens"] if self.layer.is_virtual else []
        return ", ".join([self.label, *(own for key, own in numbers.items() if self.layer.counts(key)), *tokens])

    @property
    def label(self) -> str:
        """The preset's name, or the axes spelled out when one of them was set by hand."""
        preset = Method(name=self.name)
        pairs = [(axis, str(getattr(self, axis)), str(getattr(preset, axis))) for axis in AXES]
        changed = [f"{axis} {own}" for axis, own, usual in pairs if own != usual]
        return f"{self.name}, {', '.join(changed)}" if changed else self.name
