"""Publish a run's adapter or its merged model on the Hugging Face hub: plan what goes up, show it, upload it.

A plan is made without any network. What goes up is the directory as it is, but for what would tell where files lie on
this machine, and for a card where an older run has none.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reflora_cli import __version__
from reflora_cli.adapter_io.config import read_json
from reflora_cli.adapter_io.files import RECORD, read_adapter
from reflora_cli.export.card import adapter_card, subject_of
from reflora_cli.export.publication import Publication
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.hub_errors import upload_reason
from reflora_cli.ground.paths import is_file
from reflora_cli.runs.directory import CARD, RunDirectory
from reflora_cli.runs.places import ABSOLUTE, FROM_RUN, data_record, run_recipe
from reflora_cli.runs.restore import at_its_base
from reflora_cli.runs.trained_base import adapter_base

MERGED = "merged"
"""The directory of a run in which `reflora merge` writes if it is given no other."""
TEXTS = (".json", ".md", ".txt", ".jinja", ".yaml")
"""How the names of files end that are searched for private paths."""
LARGEST_TEXT = 1 << 20
REPOSITORY = re.compile(r"(?:{0}/)?{0}".format(r"(?![-.])[\w.-]{1,96}(?<![-.])"), re.ASCII)
REPOSITORY_RULE = (
    "NAME or OWNER/NAME, each of letters, digits, _, - and ., not beginning or ending with - or ., without -- and .., "
    "not ending in .git, at most 96 characters"
)


@dataclass(frozen=True)
class Plan:
    """What goes up.

    files: paths in the directory, relative to it. changed: the texts of files that go up otherwise than they are there.
    front_matter: that of the card. base_model: the base that it names. warnings: what others would miss, or see.
    """

    repository: str
    what: Publication
    directory: Path
    files: tuple[str, ...]
    changed: Mapping[str, str]
    front_matter: str
    base_model: str | None
    warnings: tuple[str, ...]

    @property
    def sizes(self) -> dict[str, int]:
        """The bytes of every file that goes up."""
        own = {name: len(text.encode()) for name, text in self.changed.items()}
        return {name: own.get(name) or (self.directory / name).stat().st_size for name in self.files}


def plan_push(run: RunDirectory, repository: str, what: Publication) -> Plan:
    """Return what goes up to a repository of the hub. Raises InputError for a name that none can have, and for a run
    that has nothing of the kind.
    """
    check_repository(repository)
    directory = published_directory(run, what)
    changed = without_places(directory) | ({} if is_file(directory / CARD) else {CARD: missing_card(run, directory)})
    there = (file.relative_to(directory) for file in directory.rglob("*") if is_file(file))
    files = sorted({*changed, *(str(name) for name in there if not any(part.startswith(".") for part in name.parts))})
    card = changed.get(CARD) or (directory / CARD).read_text(encoding="utf-8")
    matter = card.partition("---\n")[2].partition("\n---")[0]
    base = base_named(matter)
    warnings = [*unnamed(base, what), *private_places(run, directory, files, changed)]
    return Plan(repository, what, directory, tuple(files), changed, matter, base, tuple(warnings))


def check_repository(name: str) -> None:
    """Raises InputError for a name that no repository can have."""
    if not REPOSITORY.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise InputError(Problem("this is not a valid name of a hub repository", "REPO", repr(name), REPOSITORY_RULE))


def published_directory(run: RunDirectory, what: Publication) -> Path:
    """Return the directory to publish. Raises InputError where it is not there, or is damaged."""
    if what is Publication.ADAPTER:
        read_adapter(run.adapter)
        return run.adapter
    directory = run.path / MERGED
    if not is_file(directory / "config.json") or not any(directory.glob("*.safetensors")):
        remedy = f"reflora merge {run.path}"
        raise InputError(Problem("the run has no merged model", str(directory), remedy=remedy))
    return directory


def without_places(directory: Path) -> dict[str, str]:
    """Return the text of our record without the places of the base on this machine, if it has such."""
    if not is_file(directory / RECORD):
        return {}
    record = read_json(directory / RECORD)
    base = record.get("base")
    if not isinstance(base, dict) or not (base.get(ABSOLUTE) or base.get(FROM_RUN)):
        return {}
    record["base"] = {key: None if key == ABSOLUTE else value for key, value in base.items() if key != FROM_RUN}
    return {RECORD: json.dumps(record, indent=2) + "\n"}


def missing_card(run: RunDirectory, directory: Path) -> str:
    """Return the card that an older run has not. Raises InputError for a merged model without one, and for a lost
    base.
    """
    if directory != run.adapter:
        remedy = f"remove the directory and merge again: reflora merge {run.path}"
        raise InputError(Problem("the merged model has no card", str(directory), expected=CARD, remedy=remedy))
    recipe = at_its_base(run_recipe(run), run.adapter)
    config = read_adapter(run.adapter).config
    about = replace(subject_of(recipe, run), has_tokenizer=is_file(directory / "tokenizer_config.json"))
    return adapter_card(about, config, recipe.method.layer.not_for_peft)


def base_named(matter: str) -> str | None:
    """Return the base that front matter names."""
    line = next((line for line in matter.splitlines() if line.startswith("base_model: ")), "")
    return line.removeprefix("base_model: ").strip() or None


def unnamed(base: str | None, what: Publication) -> Iterator[str]:
    """Warn of a card that names no base."""
    if base is None:
        need = (
            "others need the base to load the adapter"
            if what is Publication.ADAPTER
            else "others will not know the model's origin"
        )
        yield f"the card names no base_model, since the base is not known to be one of the hub: {need}"


def private_places(run: RunDirectory, directory: Path, files: list[str], changed: Mapping[str, str]) -> Iterator[str]:
    """Warn of files that tell where something lies on this machine."""
    known = (adapter_base(run.adapter).path, data_record(run).get(ABSOLUTE), str(run.path.resolve()), f"{Path.home()}/")
    places = [str(place) for place in known if place]
    for name in files:
        path = directory / name
        if name in changed or (path.suffix in TEXTS and path.stat().st_size <= LARGEST_TEXT):
            text = changed.get(name) or path.read_text(encoding="utf-8", errors="replace")
            if found := next((place for place in places if place in text), None):
                yield f"{name} contains a private path: {found}"


@contextmanager
def staged(plan: Plan) -> Iterator[Path]:
    """Make a directory with links to what goes up as it is, and with what goes up otherwise."""
    with tempfile.TemporaryDirectory() as place:
        for name in plan.files:
            path = Path(place) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name in plan.changed:
                path.write_text(plan.changed[name], encoding="utf-8")
            else:
                path.symlink_to((plan.directory / name).resolve())
        yield Path(place)


def push(plan: Plan, private: bool) -> str:
    """Upload a plan's files in one commit, into a repository that is made if there is none; returns its address.

    private: a new repository is only for its owner. Raises InputError for whatever the user can mend: who is logged in,
    what that user may do, the network, and a repository that is public already.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        url = api.create_repo(plan.repository, private=private or None, exist_ok=True)
        if private:
            refuse_public(api, url.repo_id)
        with staged(plan) as folder:
            message = f"Upload {plan.what} by reflora {__version__}"
            api.upload_folder(repo_id=url.repo_id, folder_path=str(folder), commit_message=message)
    except InputError:
        raise
    except Exception as error:  # the hub's library raises errors of its own and of the HTTP library below it
        reason = upload_reason(error, plan.repository)
        if reason is None:
            raise
        what = "the upload to the hub failed"
        raise InputError(Problem(what, plan.repository, reason.found, remedy=reason.remedy)) from error
    return str(url)


def refuse_public(api: Any, repository: str) -> None:
    """Raises InputError where a private upload would go to a public repository, which exists already."""
    if not api.repo_info(repository).private:
        remedy = "name another repository, make it private in its settings, or leave --private out"
        raise InputError(Problem("the repository exists and is public", repository, expected="private", remedy=remedy))
