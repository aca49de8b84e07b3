"""(IA)^3 in PEFT's format: peft_type IA3.

    base_model.model.<module>.ia3_l    l as [out, 1]; as [1, in] for modules of `feedforward_modules`

PEFT's lists of names are trailing parts of paths; ours are whole paths.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from reflora_cli.adapter_io.adapter_format import AdapterFormat, has_transposed
from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.adapters.ia3 import FILE_L, IA3Input, IA3Linear, IA3Output
from reflora_cli.ground.patterns import matches_whole
from reflora_cli.methods.layers import IA3Layer
from reflora_cli.methods.method import Method

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles

KEY = re.compile(rf"(?P<module>.+)\.(?P<part>{FILE_L})")
UNSUPPORTED = ("exclude_modules", "target_parameters")


class IA3Config(PeftConfig):
    """What we read of the config of an (IA)^3."""

    feedforward_modules: list[str] | str = Field([])

    def scales_inputs(self, module: str) -> bool:
        """Return whether l of the module is on what goes in, by PEFT's rule."""
        names = self.feedforward_modules
        if isinstance(names, str):
            return matches_whole(names, module, "feedforward_modules")
        return module.endswith(tuple(names))


class IA3Format(AdapterFormat):
    """The format of (IA)^3."""

    peft_type = IA3Layer.peft_type
    config = IA3Config
    key = KEY
    expected: ClassVar[Mapping[str, str]] = {"feedforward_modules": "a list of names, or a regular expression"}

    def unsupported(self, settings: Mapping[str, Any]) -> dict[str, str]:
        """Return the settings of an adapter's config that change its output in a way that is not supported here."""
        return {f"{name} = {settings[name]!r}"[:120]: "" for name in UNSUPPORTED if settings.get(name)}

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Return the fields of a method that an adapter decides, without its targets."""
        assert isinstance(files.config, IA3Config)
        modules = [part[0] for key in files.tensors if (part := self.part(key)) is not None]
        own = tuple(name for name in modules if files.config.scales_inputs(name))
        return {"layer": IA3Layer(feedforward=own)}

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config of an (IA)^3 says beside the common part."""
        return {
            "target_modules": list(adapted.layers),
            "feedforward_modules": [name for name, own in adapted.layers.items() if isinstance(own, IA3Input)],
            "fan_in_fan_out": has_transposed(adapted),
            "init_ia3_weights": True,
        }

    def maker(self, files: AdapterFiles, weights: Mapping[str, FrozenWeight]) -> Callable[[str, Parts], IA3Linear]:
        """Return the function that makes the layer of a module from its tensor, which raises InputError for one that
        does not fit.
        """
        config = files.config
        assert isinstance(config, IA3Config)

        def make(name: str, tensors: Parts) -> IA3Linear:
            frozen, scales_inputs = weights[name], config.scales_inputs(name)
            shape = (1, frozen.in_features) if scales_inputs else (frozen.out_features, 1)
            check_shapes(files.weights, name, {FILE_L: shape}, tensors)
            check_size(files.weights, name, largest(tensors[FILE_L]))
            kind = IA3Input if scales_inputs else IA3Output
            return kind(frozen, tensors[FILE_L].flatten())

        return make
