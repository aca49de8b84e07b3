"""VeRA in PEFT's format: peft_type VERA.

    base_model.model.<module>.vera_lambda_d    d [R]
    base_model.model.<module>.vera_lambda_b    b [out]
    base_model.vera_A                          A [R, i], shared by all modules
    base_model.vera_B                          B [o, R]

PEFT may leave A and B out (`save_projection: false`): they are then drawn again from `projection_prng_key`, as PEFT
does itself, which a torch that draws other numbers would get wrong. We always write them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import Field

from reflora_cli.adapter_io.adapter_format import AdapterFormat, has_transposed
from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest, tensor_problem
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.vera import FILE_B, FILE_D, FILE_PROJECTIONS, Projections, VeRALinear, drawn
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.layers import VeRALayer
from reflora_cli.methods.method import Method

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles

KEY = re.compile(rf"(?P<module>.+)\.(?P<part>{FILE_D}|{FILE_B})")
UNSUPPORTED = ("layers_to_transform", "layers_pattern", "exclude_modules", "target_parameters")
EXPECTED = {
    "r": "a whole number, at least 1",
    "vera_dropout": "a number from 0, below 1",
    "d_initial": "a number between -1000 and 1000",
    "projection_prng_key": "a whole number from 0",
}
"""The values that settings of a VeRA may have, where they are not just true or false."""


class VeraConfig(PeftConfig):
    """What we read of the config of a VeRA."""

    r: int = Field(256, ge=1)
    vera_dropout: float = Field(0.0, ge=0, lt=1)
    d_initial: float = Field(0.1, ge=-1e3, le=1e3)
    projection_prng_key: int = Field(0, ge=0, lt=2**63)
    save_projection: bool = True

    @property
    def shared(self) -> tuple[str, ...]:
        return FILE_PROJECTIONS if self.save_projection else ()

    def with_dropout(self, dropout: float) -> VeraConfig:
        return self.model_copy(update={"vera_dropout": dropout})


class VeraFormat(AdapterFormat):
    """The format of VeRA."""

    peft_type = VeRALayer.peft_type
    config = VeraConfig
    key = KEY
    expected = EXPECTED

    def unsupported(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings of an adapter's config that change its output in a way that is not supported here, each
        with a remedy; an empty one where there is none.
        """
        names = [*UNSUPPORTED, *(["bias"] if settings.get("bias") not in (None, "none") else [])]
        return {f"{name} = {settings[name]!r}"[:120]: "" for name in names if settings.get(name)}

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Return the fields of a method that an adapter decides, without its targets."""
        config = vera_config(files)
        layer = VeRALayer(d_initial=config.d_initial, projection_seed=config.projection_prng_key)
        return {"rank": config.r, "layer": layer}

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config of a VeRA says beside the common part."""
        assert isinstance(method.layer, VeRALayer)
        return {
            "r": method.rank,
            "vera_dropout": method.dropout,
            "d_initial": method.layer.d_initial,
            "projection_prng_key": method.layer.projection_seed,
            "save_projection": True,
            "fan_in_fan_out": has_transposed(adapted),
            "init_weights": True,
        }

    def maker(self, files: AdapterFiles, weights: Mapping[str, FrozenWeight]) -> Callable[[str, Parts], VeRALinear]:
        """Return the function that makes the layer of a module from its tensors, all around the same projections.

        Both raise InputError for tensors that do not fit.
        """
        config = vera_config(files)
        projections = stored(files, weights) if config.save_projection else drawn_again(config, weights)
        size = config.r * largest(projections.A) * largest(projections.B)

        def make(name: str, tensors: Parts) -> VeRALinear:
            frozen = weights[name]
            check_shapes(files.weights, name, {FILE_D: (config.r,), FILE_B: (frozen.out_features,)}, tensors)
            check_size(files.weights, name, size * largest(tensors[FILE_D]) * largest(tensors[FILE_B]))
            return VeRALinear(frozen, projections, (tensors[FILE_D], tensors[FILE_B]), config.vera_dropout)

        return make


def vera_config(files: AdapterFiles) -> VeraConfig:
    """Return the config of a VeRA, which is what its format reads."""
    assert isinstance(files.config, VeraConfig)
    return files.config


def drawn_again(config: VeraConfig, weights: Mapping[str, FrozenWeight]) -> Projections:
    """Return the projections of an adapter that does not hold them."""
    return drawn(config.projection_prng_key, config.r, weights.values())


def stored(files: AdapterFiles, weights: Mapping[str, FrozenWeight]) -> Projections:
    """Return the projections that an adapter holds. Raises InputError where they are missing or too small.

    They may be larger than the adapted modules need: PEFT counts modules that it saves whole.
    """
    if absent := set(FILE_PROJECTIONS) - files.tensors.keys():
        expected = "vera_A and vera_B: the adapter's config says save_projection"
        raise InputError(tensor_problem(files.weights, "missing tensors", absent, expected))
    rank = vera_config(files).r
    A, B = (files.tensors[key] for key in FILE_PROJECTIONS)
    i = max(own.in_features for own in weights.values())
    o = max(own.out_features for own in weights.values())
    if A.ndim != 2 or B.ndim != 2 or (A.shape[0], B.shape[1]) != (rank, rank) or A.shape[1] < i or B.shape[0] < o:
        what = "the adapter's projections do not fit the modules"
        found = f"vera_A {tuple(A.shape)}, vera_B {tuple(B.shape)}"
        expected = f"rank {rank}, at least {i} columns of vera_A and {o} rows of vera_B"
        raise InputError(Problem(what, str(files.weights), found, expected))
    return Projections(A, B, next(iter(weights.values())).weight.device)
