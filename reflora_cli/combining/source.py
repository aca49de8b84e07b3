"""An adapter to be combined, as read: the keys of its tensors by what they are, without a model at hand.

Reading is as strict as for evaluation, as far as it can be without the base: a tensor that is neither part of a layer
nor of a module saved whole is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from reflora_cli.adapter_io.checks import tensor_problem
from reflora_cli.adapter_io.files import AdapterFiles, read_adapter
from reflora_cli.adapter_io.formats import FORMATS
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import expanded, is_file
from reflora_cli.methods.layers import LAYERS
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.places import run_recipe
from reflora_cli.runs.trained_base import TrainedOn, base_of


@dataclass(frozen=True)
class Source:
    """One of the adapters.

    named: the directory as the user names it. layers: keys of tensors, by module and part. whole: keys of the tensors
    of modules saved whole. recipe: that of the run, if a run was named.
    """

    named: str
    files: AdapterFiles
    layers: Mapping[str, Mapping[str, str]]
    whole: tuple[str, ...]
    recipe: Recipe | None

    @property
    def base(self) -> TrainedOn:
        """What the adapter says of its base."""
        return base_of(self.files)

    @property
    def labels(self) -> list[str] | None:
        """What the outputs of its head mean; None if it does not say."""
        names = self.files.record.get("label_names")
        return [str(name) for name in names] if isinstance(names, list) and names else None


def read_source(named: str) -> Source:
    """Return an adapter directory, or that of a run. Raises InputError for what cannot be combined."""
    source = find_adapter(named)
    files = source.files
    if files.config.in_place:
        what = "this run trained parameters of the base itself, and only adapters can be combined"
        raise InputError(Problem(what, named, files.config.peft_type, remedy="merge it instead: reflora merge RUN"))
    if reason := not_merged(files):
        what, remedy = "this adapter does not change weights, so it cannot be combined", "use the run itself"
        raise InputError(Problem(what, named, reason, remedy=remedy))
    return with_keys(source)


def find_adapter(named: str) -> Source:
    """Return an adapter directory, or that of a run, of which no tensor's key has been looked at yet."""
    run = RunDirectory(expanded(named))
    is_run = is_file(run.recipe)
    files = read_adapter(run.adapter if is_run else run.path)
    return Source(named, files, {}, (), run_recipe(run) if is_run else None)


def not_merged(files: AdapterFiles) -> str:
    """Say why no weights compute what layers of the adapter's type do; empty where a merge makes such."""
    return next((own.not_merged for own in LAYERS.values() if own.peft_type == files.config.peft_type), "")


def with_keys(source: Source) -> Source:
    """Return the source with its keys. Raises InputError for tensors that belong to nothing, and for none at all."""
    files, own = source.files, FORMATS[source.files.config.peft_type]
    layers: dict[str, dict[str, str]] = {}
    whole, strangers = list[str](), list[str]()
    for key in files.tensors:
        if key in files.config.shared:
            continue
        part = own.part(key)
        if part is not None:
            layers.setdefault(part[0], {})[part[1]] = key
        elif is_whole(key, files.config.modules_to_save or ()):
            whole.append(key)
        else:
            strangers.append(key)
    if strangers:
        expected = "factors, and tensors of the modules in modules_to_save"
        raise InputError(tensor_problem(files.weights, "unexpected tensors", strangers, expected))
    if not layers:
        raise InputError(tensor_problem(files.weights, "no factors", []))
    return replace(source, layers=layers, whole=tuple(sorted(whole)))


def is_whole(key: str, modules: Sequence[str]) -> bool:
    """Whether a tensor is part of a module saved whole with one of these names, by PEFT's rule: the module's path ends
    with the name.
    """
    path = key.split(".")[:-1]
    return any(".".join(path[: end + 1]).endswith(tuple(modules)) for end in range(len(path)))


def check_same_base(sources: Sequence[Source]) -> None:
    """Raises InputError for adapters of different bases, as far as they say which these are."""
    for one, other in pairwise(sources):
        said, expected = other.base, one.base
        for kind, found, known in (
            ("sha256", said.sha256, expected.sha256),
            ("commit", said.commit, expected.commit),
            ("the base", said.name if said.on_hub else None, expected.name if expected.on_hub else None),
        ):
            if found and known and found != known:
                what = "the adapters were not trained on the same base"
                where, remedy = f"{one.named} and {other.named}", "combine adapters of one base only"
                raise InputError(Problem(what, where, f"{kind} {found}", f"{kind} {known}", remedy))


def unchecked_base(sources: Sequence[Source]) -> list[str]:
    """Say of which adapters the base is known by its name only."""
    vague = [own.named for own in sources if not (own.base.sha256 or own.base.commit)]
    if not vague or len(sources) == 1:
        return []
    names = sorted({own.base.name for own in sources})
    return [
        f"not checked that the adapters have the same base ({' and '.join(names)}), because only its name is recorded "
        f"in {', '.join(vague)}"
    ]
