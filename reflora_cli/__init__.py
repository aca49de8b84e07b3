"""Fine-tune transformers with low-rank adapters: LoRA, DoRA, RefLoRA and their relatives.

The names below are imported when they are first used, so that this import is instant.
"""

from __future__ import annotations

TYPE_CHECKING = False  # a type checker takes it as true; typing itself would be the slowest import here

if TYPE_CHECKING:
    from reflora_cli.adapters import Adapted, adapt
    from reflora_cli.ground.errors import InputError
    from reflora_cli.optim import FactorPair, LoRARITE, RefLoRA, RefLoRASGD, Roles, roles_of
    from reflora_cli.recipe.files import load_recipe
    from reflora_cli.training.train import train

__version__ = "0.1.0"

__all__ = [
    "Adapted",
    "FactorPair",
    "InputError",
    "LoRARITE",
    "RefLoRA",
    "RefLoRASGD",
    "Roles",
    "__version__",
    "adapt",
    "load_recipe",
    "roles_of",
    "train",
]

HOMES = {
    "Adapted": "adapters",
    "FactorPair": "optim",
    "InputError": "ground.errors",
    "LoRARITE": "optim",
    "RefLoRA": "optim",
    "RefLoRASGD": "optim",
    "Roles": "optim",
    "adapt": "adapters",
    "load_recipe": "recipe.files",
    "roles_of": "optim",
    "train": "training.train",
}
"""The module of each name that is imported when it is first used."""


if not TYPE_CHECKING:  # a type checker would take any misspelt name for one of these

    def __getattr__(name: str) -> object:
        if name not in HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *HOMES})
