"""A fine-tuning method as data: one frozen record, its named presets, and the combinations that make no sense.

Two axes are polymorphic in code: the adapter layer (`adapters/`) and the update rule (`optim/`). The others are plain
functions or numbers. A preset only fills the record in; every axis can be set by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from reflora_cli.methods.axes import Init, Layer, Scaling, Update

AXES = ("layer", "init", "update", "scaling", "lr_ratio")
"""The fields that a preset fills in."""

PRESETS: dict[str, dict[str, Any]] = {
    # Hu et al. 2021, arXiv 2106.09685
    "lora": {},
    # Kalajdzievski 2023, arXiv 2312.03732
    "rslora": {"scaling": Scaling.RSLORA},
    # Hayou et al. 2024, arXiv 2402.12354: B learns faster than A
    "lora+": {"lr_ratio": 16.0},
    # Liu et al. 2024, arXiv 2402.09353
    "dora": {"layer": Layer.DORA},
    # Zhang, Li, Giannakis 2025, arXiv 2505.18877: full matrix S, and its scalar variant
    "reflora": {"update": Update.REFLORA},
    "reflora-s": {"update": Update.REFLORA_S},
    # Tong, Ma, Chi 2020, arXiv 2005.08898; Zhang, Pilanci 2024, arXiv 2402.02347: inverse Gram matrices
    "scaled-gd": {"update": Update.SCALED_GD},
}

Choice = Field(strict=False)
"""Enum fields read strings even though the record is strict about numbers."""

Names = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)]
"""YAML has lists only; records keep tuples."""


def refusal(key: str, reason: str, remedy: str) -> PydanticCustomError:
    """What a validator raises for values that do not go together. key: the one to change, within its section."""
    return PydanticCustomError("refused", "{reason}; {remedy}", {"key": key, "reason": reason, "remedy": remedy})


class Refactor(BaseModel):
    """When and how update rules act; plain updates ignore it."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    warmup_steps: int = Field(100, ge=0, description="plain optimizer steps before the first refactored one")
    interval: int = Field(
        1, ge=1, description="steps between two computations of a rule's matrices; in between the last ones are applied"
    )
    damping: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = Field(
        "auto",
        description="singular values of BA are smoothed by this share of the largest; auto: 1e-3; below 1e-5, pairs "
        "whose BA is nearly of lower rank step plainly",
    )


class Method(BaseModel):
    """A fine-tuning method: the `method:` section of a recipe.

    Raises pydantic's ValidationError for values out of range and for refused combinations.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field("reflora", description="a preset", json_schema_extra={"enum": [*PRESETS]})
    after: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="a run or adapter directory, ours or PEFT's, to begin from; it decides rank, alpha, scaling, "
        "layer and targets; null: new factors",
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
    layer: Annotated[Layer, Choice] = Field(Layer.LORA, description="how the adapted weight is computed")
    init: Annotated[Init, Choice] = Field(Init.DEFAULT, description="how A starts; B starts at zero")
    update: Annotated[Update, Choice] = Field(Update.PLAIN, description="what surrounds the step of A and B")
    scaling: Annotated[Scaling, Choice] = Field(Scaling.STANDARD, description="alpha / r, or rslora: alpha / sqrt(r)")
    lr_ratio: float = Field(1.0, gt=0, le=1e9, description="learning rate of B over that of A (LoRA+)")
    refactor: Refactor = Field(Refactor(), description="when and how update rules act")

    @field_validator("name")
    @classmethod
    def _known_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"unknown method {name!r}; presets: {', '.join(PRESETS)}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        name = values.get("name", "reflora")
        preset = PRESETS.get(name) if isinstance(name, str) else None
        return values if preset is None else {**preset, **values}

    @model_validator(mode="after")
    def _refuse_what_makes_no_sense(self) -> Method:
        for rule in REFUSED:
            if rule.applies(self):
                raise refusal(rule.key, rule.reason, rule.remedy)
        return self

    @property
    def needs_full_rank(self) -> bool:
        """Whether the update rule is defined only for factors of full rank: r of at most min(out, in)."""
        return self.update.is_preconditioning

    @property
    def label(self) -> str:
        """The preset's name, or the axes spelled out when one of them was set by hand."""
        preset = Method(name=self.name)
        changed = [f"{axis} {getattr(self, axis)}" for axis in AXES if getattr(self, axis) != getattr(preset, axis)]
        return f"{self.name}, {', '.join(changed)}" if changed else self.name


@dataclass(frozen=True)
class Refusal:
    """A combination that is refused, why, and what to write instead. key: the one of the method's keys to change."""

    key: str
    applies: Callable[[Method], bool]
    reason: str
    remedy: str


REFUSED: tuple[Refusal, ...] = (
    Refusal(
        "targets",
        lambda method: not method.targets,
        "targets is empty, so nothing would be adapted",
        "name modules, or write all-linear",
    ),
    Refusal(
        "refactor.warmup_steps",
        lambda method: method.update is Update.REFLORA and method.refactor.warmup_steps == 0 and method.after is None,
        "update reflora with refactor.warmup_steps 0 cannot start: at B = 0 the optimal S is 0 and nothing would move",
        "set refactor.warmup_steps to at least 1 (the paper's runs use 100)",
    ),
    Refusal(
        "refactor.warmup_steps",
        lambda method: method.update is Update.SCALED_GD and method.refactor.warmup_steps == 0,
        "update scaled-gd with refactor.warmup_steps 0 cannot start: at B = 0 the Gram matrix B^T B has no inverse",
        "set refactor.warmup_steps to at least 1",
    ),
)
