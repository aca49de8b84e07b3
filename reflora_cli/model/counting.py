"""Count what a method trains on a base, from the base's config alone.

The model is built of tensors that have shapes and no values, so that a base of any size is counted in a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reflora_cli.adapters.inject import Adaptation, inject
from reflora_cli.ground.errors import InputError
from reflora_cli.model.auto import body_of, load_config
from reflora_cli.model.load import loading_errors, quiet_transformers
from reflora_cli.model.sources import find_source

if TYPE_CHECKING:
    from transformers import PretrainedConfig

USUAL_BASE = "microsoft/deberta-v3-base"
"""The base for which methods are counted where none is named."""
SHAPES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    USUAL_BASE: (
        "deberta-v2",
        {
            "vocab_size": 128100,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "position_buckets": 256,
            "max_relative_positions": -1,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": "p2c|c2p",
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
}
"""The configs of bases that are counted without a network: the type of model, and what differs from its defaults."""


def config_named(name: str) -> PretrainedConfig:
    """Return the config of a base. Raises InputError for a base that cannot be read."""
    if name in SHAPES:
        from transformers import AutoConfig

        kind, settings = SHAPES[name]
        return AutoConfig.for_model(kind, **settings)
    source = find_source(name, None)
    with quiet_transformers(), loading_errors(source):
        return load_config(source.location, source.revision)


def trained_parameters(config: PretrainedConfig, method: Adaptation) -> int:
    """Return the number of parameters that a method trains in a base's body, without a task's head.

    Raises InputError for a base that has nothing to be trained in this way.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), quiet_transformers():
        adapted = inject(body_of(config), method, [], [])
        return sum(parameter.numel() for parameter in adapted.parameters.values())


def counts(base: str, methods: Mapping[str, Adaptation]) -> dict[str, int | None]:
    """Return the number of parameters that each of the methods trains on a base; None where the base has nothing to be
    trained in this way. Raises InputError for a base that cannot be read.
    """
    config, known = config_named(base), dict[tuple[Any, ...], int | None]()
    for method in methods.values():
        if counted_by(method) not in known:
            known[counted_by(method)] = counted(config, method)
    return {name: known[counted_by(method)] for name, method in methods.items()}


def counted_by(method: Adaptation) -> tuple[Any, ...]:
    """Return that of a method on which its number of parameters depends: many presets differ in their rules only."""
    return method.layer, method.targets, method.rank, method.needs_full_rank


def counted(config: PretrainedConfig, method: Adaptation) -> int | None:
    """Return the number of parameters, or None."""
    try:
        return trained_parameters(config, method)
    except InputError:
        return None
