"""Parameters of a base that were trained where they are: a format of our own, which PEFT knows nothing like.

    base_model.model.<parameter>    its new value, float32, under the first of its names in the model

The config names every one of them, so that a missing and an unexpected tensor are both seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from reflora_cli.adapter_io.adapter_format import AdapterFormat
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.layers import IN_PLACE
from reflora_cli.methods.method import Method

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles


class InPlaceConfig(PeftConfig):
    """The config of parameters trained in place. trained_parameters: their full names in the model."""

    target_modules: list[str] = Field([], max_length=0)
    trained_parameters: list[str]

    @property
    def in_place(self) -> tuple[str, ...]:
        return tuple(self.trained_parameters)


class InPlaceFormat(AdapterFormat):
    """The format of parameters trained in place."""

    peft_type = IN_PLACE
    config = InPlaceConfig
    expected: ClassVar[Mapping[str, str]] = {
        "target_modules": "an empty list",
        "trained_parameters": "a list of names of parameters",
    }

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Raises InputError: training goes on with the merged model."""
        what = "method.after needs an adapter, and this run trained parameters of the base itself"
        remedy = "merge it, and train on the merged model: reflora merge RUN"
        raise InputError(Problem(what, str(files.directory), files.config.peft_type, remedy=remedy))

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config says beside the common part."""
        return {**method.layer.peft_flags, "trained_parameters": list(adapted.in_place)}
