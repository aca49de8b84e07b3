"""Put the adapter from which a run begins onto the base, to be trained further.

Its factors, DoRA's magnitudes and the modules saved with it are the start. A classifier's head is taken over if its
outputs mean the task's labels; otherwise the run has the head that it would have without the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from reflora_cli.adapter_io.config import is_target
from reflora_cli.adapter_io.files import AdapterFiles
from reflora_cli.adapter_io.formats import FORMATS
from reflora_cli.adapter_io.keys import AdapterKeys, saved_modules, sorted_keys
from reflora_cli.adapter_io.loading import check_copies, check_names, load_whole, read, restored_layers
from reflora_cli.adapter_io.virtual import made_virtual
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.blocks import wanted_modules
from reflora_cli.adapters.inject import attach, attach_before, check_rank
from reflora_cli.adapters.low_rank import LowRankLayer
from reflora_cli.adapters.targets import adaptable_names, refuse_shared
from reflora_cli.adapters.ties import is_inside
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.methods.method import Method
from reflora_cli.model.base import Base
from reflora_cli.model.labels import as_recorded, ordered_as
from reflora_cli.runs.trained_base import check_same
from reflora_cli.tasks.base import Task
from reflora_cli.training.earlier import Earlier
from reflora_cli.training.targets import listed


@dataclass(frozen=True)
class Fitting:
    """The part of an earlier adapter that goes onto a run's base.

    files: the adapter without what the model has no place for. base: the base, its outputs named as the adapter's if
    the adapter brings a head. adapters: the modules with factors. whole: the modules to load. lost: names of modules
    saved whole that the model does not have. refused: why the adapter's head is not taken; empty if it is, or if there
    is none.
    """

    files: AdapterFiles
    base: Base
    keys: AdapterKeys
    adapters: tuple[str, ...]
    whole: tuple[str, ...]
    lost: tuple[str, ...]
    refused: str

    @property
    def adapted(self) -> str:
        """What of the base the adapter is for, in words."""
        tokens = self.files.config.virtual
        return f"{tokens} virtual tokens" if tokens else f"{len(self.adapters)} modules"

    def facts(self, earlier: Earlier, doubt: str) -> dict[str, str]:
        """Return what the user should see of the beginning. doubt: what could not be checked about the base."""
        whole = f", with {', '.join(self.whole)}" if self.whole else ""
        kind = "drawn anew" if set(self.base.head) & set(self.base.fresh) else "the base's own"
        return {
            "after": f"{earlier.named} ({self.adapted}){whole}",
            **({"left out": f"{', '.join(self.lost)}: the model has no such module"} if self.lost else {}),
            **({"head": f"{kind}: {self.refused}"} if self.refused else {}),
            **({"not checked": doubt} if doubt else {}),
        }


def fitting(earlier: Earlier, base: Base, task: Task, method: Method) -> Fitting:
    """Return what of the adapter goes onto the base. Raises InputError for another base, and for what does not fit."""
    check_same(base.source, base.commit, earlier.base)
    lost = without_place(earlier.files, base)
    files = without(earlier.files, lost)
    saved = saved_modules(base.model, files.config)
    keys = sorted_keys(base.model, files, saved)
    expected = [n for n in adaptable_names(base.model) if is_target(n, files.config) and not is_inside(n, saved)]
    check_names(files, set(expected), set(keys.layers))
    head = [name for name in saved if is_inside(name, base.head)]
    refused = unfit_head(files, base, task, {name: read(files, keys.whole[name]) for name in head}) if head else ""
    whole = tuple(name for name in saved if not (refused and name in head))
    travelling = base.saved(method)
    if strangers := [name for name in whole if not is_inside(name, travelling)]:
        what = "the adapter has modules saved whole that the run would neither train nor save"
        remedy = f"set method.trainable_modules=[{', '.join(sorted({*base.trainable(method), *strangers}))}]"
        raise InputError(Problem(what, f"method.after: {earlier.named}", ", ".join(strangers), remedy=remedy))
    named = with_its_outputs(files, base, task) if head and not refused else base
    return Fitting(files, named, keys, tuple(expected), whole, lost, refused)


def without_place(files: AdapterFiles, base: Base) -> tuple[str, ...]:
    """Return the names of saved modules that do not exist in the model, such as heads of another kind of task."""
    paths = [path for path, _ in base.model.named_modules(remove_duplicate=False)]
    absent = [name for name in files.config.modules_to_save or () if not any(path.endswith(name) for path in paths)]
    return tuple(name for name in absent if any(belongs(files, key, [name]) for key in files.tensors))


def without(files: AdapterFiles, modules: Sequence[str]) -> AdapterFiles:
    """Return the adapter in memory, without the tensors of these modules saved whole."""
    tensors = {key: files.tensors[key].clone() for key in files.tensors if not belongs(files, key, modules)}
    return replace(files, tensors=tensors)


def belongs(files: AdapterFiles, key: str, modules: Sequence[str]) -> bool:
    """Whether a tensor is part of a module saved whole with one of these names."""
    return FORMATS[files.config.peft_type].part(key) is None and any(f".{name}." in f".{key}" for name in modules)


def unfit_head(files: AdapterFiles, base: Base, task: Task, head: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Say why the adapter's head cannot score the task; empty where it can.

    PEFT's adapters do not name their outputs: a head of the right shape is then taken, as in an evaluation.
    """
    recorded = files.record.get("label_names")
    if isinstance(recorded, list):
        names = [str(name) for name in recorded]
        if ordered_as(task.label_names, names) is None:
            return f"the adapter's head is for other labels ({', '.join(names) or 'a number'})"
    for module, tensors in head.items():
        shapes = {key: tensor.shape for key, tensor in base.model.get_submodule(module).state_dict().items()}
        if shapes != {key: tensor.shape for key, tensor in tensors.items()}:
            return f"the adapter's {module} has another shape"
    return ""


def with_its_outputs(files: AdapterFiles, base: Base, task: Task) -> Base:
    """Return the base with outputs named as those of the adapter's head, which replaces the base's own head."""
    recorded = files.record.get("label_names")
    if isinstance(recorded, list) and recorded:
        return as_recorded(base, task, [str(name) for name in recorded], str(files.directory))
    return replace(base, foreign_labels=())


def begin(
    fit: Fitting, method: Method, trainable: Sequence[str], saved: Sequence[str], left_out: Sequence[str]
) -> Adapted:
    """Attach the adapter to the base, which lies on its device, and freeze the rest.

    The arguments are those of `inject`. Raises InputError for other targets than the adapter's and for factors that
    do not fit their modules or the method.
    """
    model, keys = fit.base.model, fit.keys
    if fit.files.config.virtual:
        load_whole(model, fit.files, {name: read(fit.files, keys.whole[name]) for name in fit.whole})
        return attach_before(model, made_virtual(model, fit.files), trainable)
    found = wanted_modules(model, method.layer, method.targets, saved)
    matched = {pattern: [name for name in names if name not in left_out] for pattern, names in found.items()}
    check_targets(fit, method, {name for names in matched.values() for name in names})
    refuse_shared(model, set(fit.adapters))
    for module, copies in keys.copies.items():
        check_copies(fit.files, model.get_submodule(module), module, read(fit.files, copies))
    files = replace(fit.files, config=fit.files.config.with_dropout(method.dropout))
    layers = restored_layers(model, files, {name: keys.layers[name] for name in fit.adapters})
    check_factors(method, {name: own for name, own in layers.items() if isinstance(own, LowRankLayer)})
    load_whole(model, files, {name: read(files, keys.whole[name]) for name in fit.whole})
    return attach(model, layers, trainable, {pattern: len(names) for pattern, names in matched.items()})


def check_targets(fit: Fitting, method: Method, wanted: set[str]) -> None:
    """Raises InputError unless the recipe's targets are the modules that the adapter has."""
    if wanted != set(fit.adapters):
        said = method.targets if isinstance(method.targets, str) else ", ".join(method.targets)
        own = fit.files.config.target_modules
        problem = Problem(
            "method.targets differs from the targets of the adapter in method.after",
            "method.targets",
            f"{said} ({len(wanted)} modules) in the recipe",
            f"{own if isinstance(own, str) else ', '.join(own)} ({len(fit.adapters)} modules), as in the adapter; "
            f"in one only: {listed(sorted(wanted ^ set(fit.adapters)))}",
            "leave method.targets out",
        )
        raise InputError(problem)


def check_factors(method: Method, layers: Mapping[str, LowRankLayer]) -> None:
    """Raises InputError where the update rule cannot act: factors that cannot have full rank, or B = 0 at once."""
    for name, layer in layers.items():
        own = method.model_copy(update={"rank": layer.rank})
        check_rank(own, name, (layer.frozen.out_features, layer.frozen.in_features))
    zero = [name for name, layer in layers.items() if not layer.B.any()]
    update = method.update
    if zero and update.needs_warmup_at_zero and update.plain_steps == 0:
        what = f"method.update={update} needs a warm-up: the adapter's B is 0, where {update.stuck_at_zero}"
        remedy = "set method.update.warmup_steps to at least 1"
        raise InputError(Problem(what, "method.update.warmup_steps", listed(zero), remedy=remedy))
