"""List the base models that are at hand: those of bundled recipes, the built-in ones, those in the hub's cache."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from reflora_cli.model.sources import BUILTIN
from reflora_cli.recipe.bundled import bundled_list


@dataclass(frozen=True)
class KnownModel:
    """A base model. recipes: the bundled recipes that use it. size: its bytes in the hub's cache; None where it is not
    there.
    """

    name: str
    recipes: tuple[str, ...]
    size: int | None
    is_builtin: bool

    @property
    def where(self) -> str:
        """Where its files are on this machine; empty where they are not."""
        cached = "" if self.size is None else f"in the hub's cache, {self.size / 1e9:.2f} GB"
        return "built in" if self.is_builtin else cached


def known_models() -> tuple[KnownModel, ...]:
    """Return the models by name, built-in ones first."""
    users: dict[str, list[str]] = {f"builtin:{name}": [] for name in BUILTIN}
    for own in bundled_list():
        users.setdefault(own.base, []).append(own.name)
    sizes = cached_sizes()
    names = [*users, *(name for name in sizes if name not in users)]
    ordered = sorted(names, key=lambda name: (not name.startswith("builtin:"), name.lower()))
    return tuple(
        KnownModel(name, tuple(users.get(name, ())), sizes.get(name), name.startswith("builtin:")) for name in ordered
    )


def cached_sizes() -> Mapping[str, int]:
    """Return the bytes of each model in the hub's cache; nothing where there is no cache."""
    return dict(cached_models())


def cached_models() -> Iterator[tuple[str, int]]:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        found = scan_cache_dir()
    except (CacheNotFound, OSError, ValueError):
        return
    yield from ((own.repo_id, own.size_on_disk) for own in found.repos if own.repo_type == "model")
