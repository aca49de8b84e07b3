"""Find the base that an adapter was trained on.

An adapter knows its base by content: by the hash of local weights, or by the commit of a hub model. The name in the
recipe says only where to look first. A relative path means another directory elsewhere, and `owner/name` may be a
directory in one place and a hub model in another: neither is ever taken for the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reflora_cli.adapter_io.config import read_json
from reflora_cli.adapter_io.files import CONFIG, PEFT_BASE, RECORD, AdapterFiles
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import is_file
from reflora_cli.model.sources import HUB, Source, find_source, local_directory, weights_hash
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.runs.places import moved_with

REMEDY = "give the place of the base: model.name=PATH (predict and chat: --base PATH)"


@dataclass(frozen=True)
class TrainedOn:
    """What a run or an adapter says of its base; None or empty for what it does not say.

    name: the name in the recipe. path: the absolute directory of a local base. sha256: that of its weights. commit: the
    commit on the hub. on_hub: whether it was a hub model; older runs may not tell its commit. moved: the directory of a
    local base that was moved together with the run.
    """

    name: str
    path: str | None
    sha256: str | None
    commit: str | None
    on_hub: bool
    moved: str | None = None

    @property
    def is_local(self) -> bool:
        return bool(self.sha256)


def trained_on(record: Mapping[str, Any], peft_base: object = None, run: Path | None = None) -> TrainedOn:
    """Return what a record (`reflora.json`, `environment.json`) says of the base.

    peft_base: PEFT's `base_model_name_or_path`; in records that do not tell it apart it is the absolute directory. run:
    the present directory of the run that the record belongs to.
    """
    base = record.get("base")
    said: Mapping[str, Any] = base if isinstance(base, dict) else {}
    name, path, sha256, commit = (
        own if isinstance(own := said.get(key), str) else "" for key in ("name", "path", "sha256", "commit")
    )
    other = peft_base if isinstance(peft_base, str) else ""
    if sha256 and not path and Path(other).is_absolute():
        path = other
    on_hub = not sha256 and (bool(commit) or "sha256" in said)
    moved = moved_with(run, said) if run is not None and sha256 else None
    return TrainedOn(name or other, path or None, sha256 or None, commit or None, on_hub, moved)


def adapter_base(directory: Path) -> TrainedOn:
    """Return what an adapter directory says of its base. Raises InputError for files that are no JSON objects."""
    record, config = (read_json(directory / name) if is_file(directory / name) else {} for name in (RECORD, CONFIG))
    return trained_on(record, config.get(PEFT_BASE), directory.resolve().parent)


def base_of(files: AdapterFiles) -> TrainedOn:
    """Return what an adapter that has been read says of its base."""
    named = (files.config.model_extra or {}).get(PEFT_BASE)
    return trained_on(files.record, named, files.directory.resolve().parent)


def found_again(section: ModelSection, base: TrainedOn) -> ModelSection:
    """Return the section with the present place of the base, and unchanged if the user names another place than
    training did.

    Raises InputError when a local base is neither under its name nor where it was.
    """
    if section.name.removeprefix(f"{HUB}:") != base.name or not (base.is_local or base.on_hub):
        return section
    if base.on_hub:
        place = f"{HUB}:{base.name}" if find_local(section.name) else section.name
        return section.model_copy(update={"name": place, "revision": section.revision or base.commit})
    seen = list[str]()
    places = list(dict.fromkeys(place for place in (section.name, base.path, base.moved) if place))
    for place in places:
        source = find_local(place)
        if source is None:
            continue
        found = weights_hash(source)
        if found == base.sha256:
            return section.model_copy(update={"name": place})
        seen.append(f"sha256 {found} in {source.location}")
    what = "the base model is not the one that the adapter was trained on" if seen else "the base model cannot be found"
    lost = f"nothing at {' or '.join(places[1:])}" if places[1:] else "no such directory here"
    expected = f"the local directory {base.path or base.name}, sha256 {base.sha256}"
    where = f"model.name: {section.name}"
    raise InputError(Problem(what, where, found="; ".join(seen) or lost, expected=expected, remedy=REMEDY))


def find_local(name: str) -> Source | None:
    """Return the source of this name if it is on this machine and has what loading needs."""
    try:
        source = find_source(name, None)
    except InputError:
        return None
    return source if source.is_local else None


def check_same(source: Source, commit: str | None, base: TrainedOn) -> None:
    """Raises InputError for a base whose weights are not those that the adapter was trained on."""
    found = expected = ""
    if base.is_local:
        now = source if source.is_local else Source(source.name, str(local_directory(source)), None, is_local=True)
        found, expected = f"sha256 {weights_hash(now)}", f"sha256 {base.sha256}"
    elif base.commit and commit and not source.is_local:
        found, expected = f"commit {commit}", f"commit {base.commit}"
    if found != expected:
        kind = f"the local directory {base.path or base.name}" if base.is_local else f"{base.name} on the hub"
        what = "the base model is not the one that the adapter was trained on"
        raise InputError(Problem(what, f"model.name: {source.name}", found, f"{expected}: {kind}", REMEDY))


def unchecked(section: ModelSection, base: TrainedOn) -> str:
    """Say what cannot be checked about the base that the section leads to; empty where its weights can be compared.

    Raises InputError for a base that is lost.
    """
    place = found_again(section, base).name
    if base.on_hub and find_local(place):
        return f"the adapter was trained on {base.name} of the hub: it is not checked that {place} holds the same model"
    if not base.is_local and base.commit is None:
        named = f", but only the name {base.name}" if base.name else ""
        return f"the adapter does not record the weights of its base{named}: {place} is not checked"
    return ""
