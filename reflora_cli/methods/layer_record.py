"""What every layer says of itself: `layers.py` has the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from reflora_cli.methods.axes import Place
from reflora_cli.methods.choice import Choice

OF_PAIRS = ("start", "update", "scaling", "lr_ratio")
"""The settings of a method that are about pairs A, B."""
WITHOUT_PAIRS = ("start", "scaling", "lr_ratio")
"""Those of them that mean nothing without pairs; of update rules each says itself on what it acts."""
OF_ADAPTERS = ("rank", "alpha", "dropout")
"""The numbers that only adapters of modules have."""
MERGE = "merge it instead: reflora merge RUN"


class LayerRecord(Choice):
    """What the rest of the program asks of a layer instead of its name.

    has_pairs: whether it trains pairs A, B. has_frames: whether it trains matrices whose columns or rows are
    orthonormal. meaningless: the settings of a method that mean nothing with it and are refused. unused: those that
    recipes may say, and that have no effect with it. needs_full_rank: whether r must be at most min(out, in) on every
    adapted weight. peft_type: the kind of adapter under which PEFT's format has it. peft_flags: the settings of PEFT's
    config that tell it from other layers of that type. read_as: the kind of layer that its files hold, if that is
    another. not_for_peft: why PEFT cannot read it; empty where it can. not_for_vllm: why vLLM cannot put it beside a
    base, even as PEFT has it. in_place: the parameters of the base that it trains where they are, in words; empty for a
    layer with modules of its own. trains_weights: whether weight matrices are among them, which then are neither
    quantized nor shared out. not_merged: why no plain weights compute what the adapted model does; empty where a merge
    makes such. places: the places in each block that it adapts unless targets are named; empty for a layer on all
    linear layers. is_virtual: whether it puts virtual tokens before rows and adapts no module. keeps_cache: whether
    training needs the model's cache of keys.
    """

    has_pairs: ClassVar[bool] = True
    has_frames: ClassVar[bool] = False
    meaningless: ClassVar[tuple[str, ...]] = ()
    unused: ClassVar[tuple[str, ...]] = ()
    needs_full_rank: ClassVar[bool] = False
    peft_type: ClassVar[str] = "LORA"
    peft_flags: ClassVar[Mapping[str, bool]]
    read_as: ClassVar[str] = ""
    not_for_peft: ClassVar[str] = ""
    not_for_vllm: ClassVar[str] = ""
    in_place: ClassVar[str] = ""
    trains_weights: ClassVar[bool] = False
    not_merged: ClassVar[str] = ""
    places: ClassVar[tuple[Place, ...]] = ()
    is_virtual: ClassVar[bool] = False
    keeps_cache: ClassVar[bool] = False

    @property
    def reserved(self) -> int:
        """The number of a model's positions that it takes from every row."""
        return 0

    @property
    def way_out(self) -> str:
        """What a user does with a run for which a format has no place."""
        return "use the run itself: reflora eval, predict or chat RUN" if self.not_merged else MERGE

    @property
    def begins_as_base(self) -> bool:
        """Whether the adapted model computes what its base does until the first step, or very nearly."""
        return True

    @classmethod
    def counts(cls, key: str) -> bool:
        """Return whether a setting of a method has an effect with it."""
        return key not in (*cls.meaningless, *cls.unused)

    def trains(self, name: str) -> bool:
        """Return whether it trains the base's parameter of this full name where it is."""
        return False

    def check_rank(self, rank: int) -> None:
        """Raises a refusal for a rank with which its own fields have no meaning."""

    def too_short(self, steps: int) -> str:
        """Say why a run of so many steps is too short for its fields; empty if it is not."""
        return ""
