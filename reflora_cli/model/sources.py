"""Where a base model comes from: its name in a recipe -> a local directory, or an id on the Hugging Face hub.

`builtin:NAME`          shipped with this package
`pkg:PACKAGE/PATH`      files inside an installed Python package, found without importing it
a directory             safetensors weights, config and tokenizer
`owner/name`            the hub, through transformers and its cache; `hub:owner/name` where a directory has that name
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.ground.errors import InputError, Problem, nearest
from reflora_cli.ground.paths import exists, expanded, is_directory, is_file

BUILTIN = {"tiny-llama": Path(__file__).parents[1] / "builtin" / "tiny_llama"}
HUB = "hub"
PACKAGED = ("builtin:", "pkg:")
"""How names of models begin that are found inside installed packages."""
WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
WANTED = (*WEIGHTS, "*.json", "*.txt", "*.model", "*.jinja")
"""Patterns of the files of a hub model: those with its weights, and all others that are read."""
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """A base model: its name in the recipe and where transformers finds it (a directory, or a hub id and revision)."""

    name: str
    location: str
    revision: str | None
    is_local: bool

    @property
    def is_path(self) -> bool:
        """Whether it is a directory of the user's, which means nothing on another machine."""
        return self.is_local and not self.name.startswith(PACKAGED)


def find_source(name: str, revision: str | None) -> Source:
    """Resolve a model name. Raises InputError for a directory that lacks config or safetensors weights."""
    kind, colon, rest = name.partition(":")
    if colon and kind == "builtin":
        return local(name, builtin(rest))
    if colon and kind == "pkg":
        return local(name, inside_package(rest))
    if colon and kind == HUB:
        return on_hub(rest, revision)
    path = expanded(name)
    if exists(path):
        return local(name, path)
    return on_hub(name, revision)


def on_hub(name: str, revision: str | None) -> Source:
    """Return a source on the hub. Raises InputError for a name that can only be a path.

    transformers takes a directory of that name for the model: in that case it is given the directory in the hub's
    cache.
    """
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        expected = "an existing directory or a hub id"
        raise InputError(problem("the base model's directory does not exist", name, expected))
    place = str(snapshot(name, revision, WANTED)) if is_directory(Path(name)) else name
    return Source(name, place, revision, is_local=False)


def snapshot(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Return where the hub's cache has a model's files of these names; missing ones are fetched. Raises InputError."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:  # what huggingface_hub raises is of these kinds
        found = str(error).strip().partition("\n")[0]
        raise InputError(problem("the base model cannot be fetched", name, "a model on the hub", found)) from error


def problem(what: str, found: str, expected: str, remedy: str = "") -> Problem:
    return Problem(what, where="model.name", found=repr(found), expected=expected, remedy=remedy)


def builtin(name: str) -> Path:
    if name not in BUILTIN:
        raise InputError(problem("unknown builtin model", name, "a builtin model", nearest(name, BUILTIN)))
    return BUILTIN[name]


def inside_package(path: str) -> Path:
    """Return the path of `PACKAGE/PATH` inside the installed package's directory."""
    package, _, inner = path.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        expected = "pkg:PACKAGE/PATH with an installed top-level Python package"
        raise InputError(problem("the Python package is not installed", package, expected, f"pip install {package}"))
    return Path(next(iter(spec.submodule_search_locations))) / inner


def local(name: str, path: Path) -> Source:
    """Return a source in a directory after checking it for what loading needs."""
    expected = "a directory with config.json and *.safetensors"
    if not is_directory(path):
        raise InputError(problem("the base model is not a directory", f"{name} ({path})", expected))
    if not is_file(path / "config.json"):
        adapter = is_file(path / "adapter_config.json")
        remedy = "this is an adapter: set model.name to its base, and name the adapter by --adapter" if adapter else ""
        raise InputError(problem("the base model has no config.json", f"{name} ({path})", expected, remedy))
    if not any(path.glob("*.safetensors")):
        pickled = sorted(file.name for file in (*path.glob("*.bin"), *path.glob("*.pt")))
        remedy = f"convert {', '.join(pickled)} to safetensors; pickled weights are never loaded" if pickled else ""
        raise InputError(problem("the base model has no safetensors weights", f"{name} ({path})", expected, remedy))
    return Source(name, str(path.resolve()), None, is_local=True)


def local_directory(source: Source) -> Path:
    """Return where a source's files are: its directory, or the hub's cache, which holds them once the model was
    loaded.
    """
    if source.is_local:
        return Path(source.location)
    return snapshot(source.name, source.revision, WEIGHTS)


def commit_of(source: Source) -> str | None:
    """Return the commit of a hub source that was loaded, as the hub's cache names it; None for a local one.

    Only some versions of transformers name it in their config.
    """
    if source.is_local:
        return None
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(source.name, "config.json", revision=source.revision or "main")
    return Path(config).parent.name if isinstance(config, str) else None


def weights_hash(source: Source) -> str:
    """Return the sha256 of a local source's weight files, in order of their names; empty for a hub source.

    A hub source is identified by its commit, which fixes the content of every file.
    """
    if not source.is_local:
        return ""
    files = sorted(Path(source.location).glob("*.safetensors"))
    return files_hash(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@functools.cache
def files_hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Return the sha256 of names and contents. files: (path, size, time of change), read once for each state of
    them.
    """
    digest = hashlib.sha256()
    for file, _, _ in files:
        digest.update(file.name.encode())
        for block in blocks(file):
            digest.update(block)
    return digest.hexdigest()


def blocks(file: Path, size: int = 1 << 22) -> Iterator[bytes]:
    with file.open("rb") as stream:
        while block := stream.read(size):
            yield block
