"""Bottleneck adapters, of Houlsby and of Pfeiffer: a format of our own, since PEFT has no such adapters.

    base_model.model.<module>.bottleneck_down         W_d [r, out]
    base_model.model.<module>.bottleneck_down_bias    b_d [r]
    base_model.model.<module>.bottleneck_up           W_u [out, r]
    base_model.model.<module>.bottleneck_up_bias      b_u [out]

The config names the adapted modules as PEFT's do, the rank, the function between the matrices, and whether bottlenecks
stand behind attention too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from reflora_cli.adapter_io.adapter_format import AdapterFormat
from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.bottleneck import BottleneckLinear
from reflora_cli.adapters.frozen import FrozenWeight
from reflora_cli.methods.layers import layer_of
from reflora_cli.methods.method import Method
from reflora_cli.methods.unmerged_layers import BOTTLENECK, Activation, HoulsbyLayer, PfeifferLayer

if TYPE_CHECKING:
    from reflora_cli.adapter_io.files import AdapterFiles

KEY = re.compile(r"(?P<module>.+)\.bottleneck_(?P<part>down|up|down_bias|up_bias)")


class BottleneckConfig(PeftConfig):
    """The config of bottleneck adapters."""

    r: int = Field(ge=1)
    activation: Activation
    dropout: float = Field(0.0, ge=0, lt=1)
    after_attention: bool

    def with_dropout(self, dropout: float) -> BottleneckConfig:
        return self.model_copy(update={"dropout": dropout})


class BottleneckFormat(AdapterFormat):
    """The format of bottleneck adapters."""

    peft_type = BOTTLENECK
    config = BottleneckConfig
    key = KEY
    expected: ClassVar[Mapping[str, str]] = {
        "r": "a whole number, at least 1",
        "activation": "gelu, relu, silu or tanh",
        "dropout": "a number from 0, below 1",
    }

    def settings(self, files: AdapterFiles) -> dict[str, Any]:
        """Return the fields of a method that an adapter decides, without its targets."""
        config = bottleneck_config(files)
        layer = layer_of(config.peft_type, {"after_attention": config.after_attention})
        return {"rank": config.r, "layer": layer.model_copy(update={"activation": config.activation})}

    def entries(self, adapted: Adapted, method: Method) -> dict[str, Any]:
        """Return what the config says beside the common part."""
        assert isinstance(method.layer, HoulsbyLayer | PfeifferLayer)
        chosen = {"r": method.rank, "activation": method.layer.activation, "dropout": method.dropout}
        return {**chosen, **method.layer.peft_flags}

    def maker(
        self, files: AdapterFiles, weights: Mapping[str, FrozenWeight]
    ) -> Callable[[str, Parts], BottleneckLinear]:
        """Return the function that makes the layer of a module from its tensors. It raises InputError for tensors that
        do not fit.
        """
        config = bottleneck_config(files)

        def make(name: str, tensors: Parts) -> BottleneckLinear:
            out, rank = weights[name].out_features, config.r
            shapes = {"down": (rank, out), "down_bias": (rank,), "up": (out, rank), "up_bias": (out,)}
            check_shapes(files.weights, name, shapes, tensors)
            check_size(files.weights, name, max(map(largest, tensors.values())))
            return BottleneckLinear.restored(weights[name], tensors, config.activation, config.dropout)

        return make


def bottleneck_config(files: AdapterFiles) -> BottleneckConfig:
    """Return the config of bottleneck adapters, which is what their format reads."""
    assert isinstance(files.config, BottleneckConfig)
    return files.config
