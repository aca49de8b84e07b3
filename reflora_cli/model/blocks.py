"""The repeated blocks of a model, found without their names: the members of its outermost lists of modules."""

from __future__ import annotations

from torch import nn


def block_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return a model's lists of blocks by name, in its order: those of its lists of modules that stand in no other one.

    Empty lists do not count, and in the place of a list of lists stand the lists that it holds. A list within a block,
    such as that of its experts, is a part of the block.
    """
    lists = {name: own for name, own in model.named_modules() if isinstance(own, nn.ModuleList) and holds_blocks(own)}
    return {name: own for name, own in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}


def holds_blocks(modules: nn.ModuleList) -> bool:
    """Whether a list has members, none of which is a list itself."""
    return len(modules) > 0 and not any(isinstance(own, nn.ModuleList) for own in modules)


def named_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return a model's repeated blocks by name, in its order; nothing for a model without lists of modules."""
    return {f"{name}.{number}": own for name, blocks in block_lists(model).items() for number, own in enumerate(blocks)}


def first_blocks(model: nn.Module) -> nn.ModuleList | None:
    """Return the first list of a model's blocks, such as an encoder's; None where there is no list."""
    return next(iter(block_lists(model).values()), None)
