"""What training, files and merging know of an adapted model."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, nn

from reflora_cli.adapters.layer import Adapter
from reflora_cli.factors.pair import FactorPair, Role, Triplets


@dataclass(frozen=True)
class Adapted:
    """What training needs to know of an adapted model.

    Every trained parameter belongs to exactly one of `layers`, `others` and `in_place`.

    layers: adapters by module name, in the model's order.
    others: parameters of the modules trained whole (heads), by full name.
    matches: number of modules that each target pattern matched.
    in_place: parameters of the base that the method trains where they are, by full name.
    """

    layers: dict[str, Adapter]
    others: dict[str, nn.Parameter]
    matches: dict[str, int]
    in_place: dict[str, nn.Parameter] = field(default_factory=dict)

    @property
    def pairs(self) -> list[FactorPair]:
        """Every pair of factors, in the order of the layers."""
        return [pair for name, layer in self.layers.items() for pair in layer.pairs(name)]

    @property
    def triplets(self) -> list[Triplets]:
        """Every layer's triplets, in the order of the layers."""
        return [own for name, layer in self.layers.items() for own in layer.triplets(name)]

    def of_role(self, role: Role) -> dict[str, nn.Parameter]:
        """Return the trained parameters of one role, by full name, without those of modules trained whole."""
        own = {
            f"{name}.{key}": layer.get_parameter(key)
            for name, layer in self.layers.items()
            for key, own in layer.roles().items()
            if own is role
        }
        kinds = {name: Role.DECAYED if tensor.ndim >= 2 else Role.UNDECAYED for name, tensor in self.in_place.items()}
        return {**own, **{name: tensor for name, tensor in self.in_place.items() if kinds[name] is role}}

    @property
    def by_layer(self) -> dict[str, list[nn.Parameter]]:
        """The trained parameters of every adapter layer, by module name."""
        return {name: [layer.get_parameter(key) for key in layer.roles()] for name, layer in self.layers.items()}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Every trained parameter by its full name in the model."""
        own = {
            f"{name}.{key}": layer.get_parameter(key) for name, layer in self.layers.items() for key in layer.roles()
        }
        return {**own, **self.in_place, **self.others}

    @property
    def constants(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of the layers beside the trained parameters, by full name.

        A tensor that layers share has its name in the first of them.
        """
        found: dict[int, tuple[str, Tensor]] = {}
        for name, layer in self.layers.items():
            for key, tensor in layer.constants().items():
                found.setdefault(id(tensor), (f"{name}.{key}", tensor))
        return dict(found.values())
