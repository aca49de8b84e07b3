"""Compare what is installed with what the package says that it needs."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from reflora_cli import __version__
from reflora_cli.diagnosing.finding import Finding, State
from reflora_cli.ground.extras import EXTRAS, Extra

DISTRIBUTION = "reflora"


def versions() -> Iterator[Finding]:
    """Yield Python, reflora and each required package, with its version."""
    yield Finding("reflora", __version__)
    try:
        own = metadata.metadata(DISTRIBUTION)
        stated = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        found = "reflora is not installed as a package, so versions cannot be checked"
        yield Finding("installation", found, State.WARNING, "pip install . in the directory of its source")
        return
    yield python(own["Requires-Python"] or "")
    yield from (package(requirement) for requirement in required(stated))


def python(wanted: str) -> Finding:
    """Return the finding about Python. wanted: as `>=3.11`."""
    version = platform.python_version()
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return Finding("python", version)
    return Finding("python", f"{version}, where {wanted} is needed", State.BROKEN, "make an environment with another")


def required(stated: Sequence[str]) -> list[Requirement]:
    """Return the requirements that hold without any optional part."""
    requirements = [Requirement(text) for text in stated]
    return [own for own in requirements if own.marker is None or own.marker.evaluate({"extra": ""})]


def package(requirement: Requirement) -> Finding:
    """Return the finding about a package that is needed."""
    remedy = f"pip install '{requirement.name}{requirement.specifier}'"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(requirement.name, "not installed", State.BROKEN, remedy)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(requirement.name, version)
    return Finding(requirement.name, f"{version}, where {requirement.specifier} is needed", State.BROKEN, remedy)


def optional_parts() -> Iterator[Finding]:
    """Yield each optional part, with the command that gets what is missing, and llama.cpp's program."""
    from reflora_cli.export.gguf_quantize import HOW_TO_GET, PROGRAM, find_quantizer
    from reflora_cli.ground.errors import InputError

    yield from map(optional_part, EXTRAS.values())
    try:
        yield Finding(PROGRAM, str(find_quantizer()))
    except InputError:
        yield Finding(PROGRAM, "not here: for GGUF types below q8_0", State.WARNING, HOW_TO_GET)


def optional_part(extra: Extra) -> Finding:
    """Return the finding about one optional part."""
    if not extra.missing:
        there = ", ".join(f"{name} {metadata.version(name)}" for name in extra.modules.values())
        return Finding(extra.name, there)
    missing = f"without {', '.join(extra.missing)}: for {extra.purpose}"
    return Finding(extra.name, missing, State.WARNING, extra.command)
