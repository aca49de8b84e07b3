"""Attach an adapter directory to a base model, strictly.

A missing, unexpected or misshapen tensor is an error: a silently absent adapter still gives plausible numbers. Names
are compared before any tensor is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from reflora_cli.adapter_io.checks import Parts, check_shapes, check_size, largest, tensor_problem
from reflora_cli.adapter_io.config import is_target
from reflora_cli.adapter_io.files import AdapterFiles
from reflora_cli.adapter_io.formats import FORMATS
from reflora_cli.adapter_io.keys import saved_modules, sorted_keys
from reflora_cli.adapter_io.virtual import made_virtual
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.in_place import train_in_place
from reflora_cli.adapters.inject import attach, attach_before
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.adapters.targets import adaptable_names
from reflora_cli.adapters.ties import is_inside, shared_parameters, untie
from reflora_cli.ground.errors import InputError, Problem


def load_adapter(model: nn.Module, files: AdapterFiles, fresh: Sequence[str]) -> Adapted:
    """Attach the adapter to a base model and load the modules saved with it.

    fresh: modules that the base checkpoint lacks; the adapter must bring every one of them. Raises InputError.
    """
    saved = saved_modules(model, files.config)
    check_fresh(files, fresh, saved)
    keys = sorted_keys(model, files, saved)
    expected = [name for name in adaptable_names(model) if is_target(name, files.config) and not is_inside(name, saved)]
    check_names(files, set(expected), set(keys.layers))
    check_in_place(model, files)
    for module, copies in keys.copies.items():
        check_copies(files, model.get_submodule(module), module, read(files, copies))
    layers = restored_layers(model, files, {name: keys.layers[name] for name in expected})
    load_whole(model, files, {module: read(files, names) for module, names in keys.whole.items()})
    if files.config.virtual:
        return attach_before(model, made_virtual(model, files), saved)
    adapted = attach(model, layers, saved, {})
    return replace(adapted, in_place=load_in_place(model, files, keys.in_place))


def read(files: AdapterFiles, keys: Mapping[str, str]) -> Parts:
    """Return the tensors of one module by their keys."""
    return {name: files.tensors[key] for name, key in keys.items()}


def check_fresh(files: AdapterFiles, fresh: Sequence[str], saved: Sequence[str]) -> None:
    absent = [module for module in fresh if not is_inside(module, saved)]
    if absent:
        problem = Problem(
            "neither the adapter nor the base checkpoint holds some modules: their weights would be random",
            str(files.directory),
            found=f"modules_to_save: {', '.join(saved) or 'none'}",
            expected=", ".join(absent),
            remedy="train with these modules in modules_to_save, or use a base that has them",
        )
        raise InputError(problem)


def check_names(files: AdapterFiles, expected: set[str], found: set[str]) -> None:
    problems = []
    if expected - found:
        problems.append(tensor_problem(files.weights, "missing factors of modules", expected - found))
    if found - expected:
        problems.append(
            tensor_problem(files.weights, "factors of modules that the base does not have or target", found - expected)
        )
    if not expected and not found and not files.config.in_place and not files.config.virtual:
        problems.append(tensor_problem(files.weights, "no factors", []))
    if problems:
        raise InputError(*problems)


def check_in_place(model: nn.Module, files: AdapterFiles) -> None:
    """Raises InputError unless the file has every parameter that the config names, and the base has it too."""
    names = files.config.in_place
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    problems = []
    if missing := set(names) - set(files.tensors):
        problems.append(tensor_problem(files.weights, "missing parameters", missing))
    if unknown := set(names) - own:
        problems.append(tensor_problem(files.weights, "parameters that the base does not have", unknown))
    if problems:
        raise InputError(*problems)


def check_copies(files: AdapterFiles, module: nn.Module, name: str, copies: Parts) -> None:
    """Raises InputError if an adapter holds weights of the base that differ from the base's: resized or trained there.

    Both are compared in the coarser of their two dtypes.
    """
    state = module.state_dict()
    for key, copy in copies.items():
        own = state.get(key)
        if own is not None and own.shape == copy.shape:
            dtype = min((own.dtype, copy.dtype), key=lambda kind: kind.itemsize)
            if torch.equal(own.to(dtype), copy.to(dtype)):
                continue
        what = f"the adapter's copy of {name}.{key} differs from the base's: it was resized or trained with the adapter"
        found = f"{'other values' if own is not None and own.shape == copy.shape else 'a tensor'} {list(copy.shape)}"
        expected = "no such tensor" if own is None else f"the base's own, {list(own.shape)}"
        remedy = "set model.name to the base that the adapter was trained on, with this weight in it"
        raise InputError(Problem(what, str(files.weights), found, expected, remedy))


def restored_layers(
    model: nn.Module, files: AdapterFiles, keys: Mapping[str, Mapping[str, str]]
) -> dict[str, AdapterLayer]:
    """Return the adapter layers of modules, each made of its tensors. keys: the tensors' keys, by module and part."""
    weights = {name: freeze(model.get_submodule(name)) for name in keys}
    make = FORMATS[files.config.peft_type].maker(files, weights)
    return {name: make(name, read(files, parts)) for name, parts in keys.items()}


def load_in_place(
    model: nn.Module, files: AdapterFiles, keys: Mapping[str, Mapping[str, str]]
) -> dict[str, nn.Parameter]:
    """Give the base's parameters the values that the adapter brings, in float32, one module at a time; by full name.

    A parameter that stands under several names changes under all of them. keys: by module and name in it. Raises
    InputError for tensors that do not fit.
    """
    parameters: dict[str, nn.Parameter] = {}
    for module, names in keys.items():
        tensors = read(files, names)
        own = {name: model.get_parameter(key) for name, key in names.items()}
        check_shapes(files.weights, module, {name: tuple(tensor.shape) for name, tensor in own.items()}, tensors)
        check_size(files.weights, module, max(map(largest, tensors.values())))
        trained = train_in_place(model, names.values())
        for name, key in names.items():
            trained[key].data.copy_(tensors[name])
        parameters |= trained
    return parameters


def load_whole(model: nn.Module, files: AdapterFiles, whole: Mapping[str, Parts]) -> None:
    """Load modules saved whole; every tensor of a module's state must be there with its shape."""
    for path, tensors in whole.items():
        state = model.get_submodule(path).state_dict()
        check_shapes(files.weights, path, {key: tuple(tensor.shape) for key, tensor in state.items()}, tensors)
        check_size(files.weights, path, max((largest(tensor) for tensor in tensors.values()), default=0.0))
    for path in untied_modules(model, files, whole):
        untie(model, path)
    for path, tensors in whole.items():
        model.get_submodule(path).float().load_state_dict(tensors)


def untied_modules(model: nn.Module, files: AdapterFiles, whole: Mapping[str, Parts]) -> list[str]:
    """Return the modules saved whole that no longer share their parameters with others, though in the base they do.

    PEFT copies each module that it saves: modules tied to it keep the base's weight, and two tied modules that are both
    saved are two. A tie remains if the adapter holds all modules that share the parameter and they are equal, and if we
    trained the adapter ourselves: then they trained together, even if only one of them was written.
    """
    brought = {f"{path}.{name}": tensor for path, tensors in whole.items() for name, tensor in tensors.items()}
    trained_together = "saved_modules" in files.record
    apart: set[str] = set()
    for names in shared_parameters(model):
        found = [brought[name] for name in names if name in brought]
        complete = trained_together or len(found) == len(names)
        if found and not (complete and all(same(found[0], other) for other in found)):
            apart |= {path for path in whole if any(is_inside(name, [path]) for name in names)}
    return sorted(apart)


def same(one: Tensor, other: Tensor) -> bool:
    return one.dtype is other.dtype and torch.equal(one, other)
