"""Find the adapter from which a run begins (`method.after`), and let it decide what the recipe leaves open.

The adapter has its rank, alpha, scaling, layer and targets; a recipe may leave them out or repeat them. A run keeps a
copy of the adapter's files, so that it can be continued when the directory is gone or holds something else.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reflora_cli.adapter_io.checks import tensor_problem
from reflora_cli.adapter_io.config import ends_with
from reflora_cli.adapter_io.files import CONFIG, RECORD, WEIGHTS, AdapterFiles, read_adapter
from reflora_cli.adapter_io.formats import FORMATS
from reflora_cli.adapters.target_patterns import PLAIN_NAME
from reflora_cli.ground.atomic import write_directory
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import expanded, is_directory, is_file
from reflora_cli.methods.method import Method
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.trained_base import TrainedOn, base_of

LAYER_REMEDY = "to change the layer, merge the adapter and train on the merged model: reflora merge RUN"


@dataclass(frozen=True)
class Earlier:
    """The adapter from which a run begins. named: the directory as the recipe names it."""

    named: str
    files: AdapterFiles

    @property
    def base(self) -> TrainedOn:
        """What the adapter says of its base."""
        return base_of(self.files)

    def record(self) -> dict[str, str]:
        """Return what environment.json and reflora.json say of it: the directory and the digest of the weights."""
        with (self.files.directory / WEIGHTS).open("rb") as stream:
            return {"directory": self.named, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}

    def keep(self, place: Path) -> None:
        """Copy the adapter's files to `place`, unless they are there already."""
        if is_directory(place):
            return
        with write_directory(place) as directory:
            for name in (CONFIG, WEIGHTS, RECORD):
                if is_file(self.files.directory / name):
                    shutil.copyfile(self.files.directory / name, directory / name)


def find_earlier(recipe: Recipe, kept: Path | None = None) -> Earlier | None:
    """Return the adapter that `method.after` names, a run directory or an adapter's; None for a run with new factors.

    kept: where a run that is continued has its copy, if it has one. Raises InputError.
    """
    named = recipe.method.after
    if named is None:
        return None
    run = RunDirectory(expanded(named))
    place, remedy = (run.adapter if is_file(run.recipe) else run.path), ""
    if kept is not None and is_directory(kept):
        place, remedy = kept, f"restore {kept}, or remove it, so that {named} is read instead"
    try:
        return Earlier(named, read_adapter(place))
    except InputError as error:
        problems = (
            replace(problem, where=f"method.after: {problem.where}", remedy=remedy or problem.remedy)
            for problem in error.problems
        )
        raise InputError(*problems) from error


def settled(recipe: Recipe, earlier: Earlier | None) -> Recipe:
    """Return the recipe with the adapter's rank, alpha, scaling, layer and targets where it says none.

    Raises InputError, with both values, where it says others; targets are compared on the model (`begin.py`).
    """
    if earlier is None:
        return recipe
    method, own = recipe.method, settings_of(earlier.files)
    said = {key: getattr(method, key) for key in own if key in method.model_fields_set}
    # A preset names the kind of layer alone; the layer's own fields say how the adapter began.
    said |= {"layer": own["layer"]} if "layer" in said and said["layer"].kind == own["layer"].kind else {}
    differing = [key for key, value in said.items() if key != "targets" and value != own[key]]
    if differing:
        raise InputError(*(disagreement(earlier, key, said[key], own[key]) for key in differing))
    try:
        complete = Method.model_validate({**own, **method.model_dump(exclude_unset=True), "layer": own["layer"]})
    except ValidationError as error:
        detail = error.errors()[0]
        key, found = ".".join(map(str, detail["loc"])), f"{detail['input']}: {detail['msg']}"
        where = f"method.after: {earlier.named}, {key}"
        raise InputError(Problem("the adapter has settings that cannot be trained here", where, found)) from error
    return recipe.model_copy(update={"method": complete})


def settings_of(files: AdapterFiles) -> dict[str, Any]:
    """Return the fields of a method that an adapter decides."""
    own = dict(FORMATS[files.config.peft_type].settings(files))  # first: a format may refuse to be gone on from
    return own if files.config.virtual else {**own, "targets": targets_of(files)}


def targets_of(files: AdapterFiles) -> tuple[str, ...]:
    """Return the adapter's targets in the form of a recipe's, without those that name none of its modules.

    A text of PEFT's is a regular expression for the whole path; its lists hold trailing parts of paths.
    """
    config = files.config
    parts = map(FORMATS[config.peft_type].part, files.tensors)
    modules = [part[0] for part in parts if part is not None]
    if not modules:
        raise InputError(tensor_problem(files.weights, "no factors", []))
    parameters = [name.removesuffix(".weight") for name in config.target_parameters or ()]
    named = [config.target_modules] if isinstance(config.target_modules, str) else config.target_modules
    if isinstance(config.target_modules, str):
        whole = tuple(f"(?:{name})" if PLAIN_NAME.fullmatch(name) else name for name in named)
        return (*whole, *parameters)
    used = [name for name in (*named, *parameters) if any(ends_with(module, [name]) for module in modules)]
    return tuple(name if PLAIN_NAME.fullmatch(name) else rf"(?:.*\.)?{re.escape(name)}" for name in used)


def disagreement(earlier: Earlier, key: str, said: object, own: object) -> Problem:
    """Return what a recipe that contradicts the adapter is told."""
    what = f"method.{key} differs from the {key} of the adapter in method.after"
    remedy = LAYER_REMEDY if key == "layer" else f"leave method.{key} out, or set it to the adapter's"
    return Problem(what, f"method.{key}", f"{said} in the recipe", f"{own}, as in {earlier.named}", remedy)
