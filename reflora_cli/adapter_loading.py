"""Attach an adapter directory to a base model, strictly.

A missing, unexpected or misshapen tensor is an error: a silently absent adapter still gives plausible numbers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from reflora_cli.adapter_config import PeftConfig, is_target, pattern_value
from reflora_cli.adapter_files import WEIGHTS, AdapterFiles
from reflora_cli.adapters.frozen import freeze
from reflora_cli.adapters.inject import Adapted, adaptable_names, attach, build_layer, is_inside
from reflora_cli.adapters.layer import AdapterLayer
from reflora_cli.errors import InputError, Problem
from reflora_cli.factors import scaling_factor
from reflora_cli.methods import Layer, Scaling

FACTOR_KEY = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<factor>[AB])\.weight|(?P<magnitude>lora_magnitude_vector)(?:\.weight)?)"
)


def load_adapter(model: nn.Module, files: AdapterFiles, fresh: Sequence[str]) -> Adapted:
    """Attach the adapter to a base model and load the modules saved with it.

    fresh: modules that the base checkpoint lacks; the adapter must bring every one of them. Raises InputError.
    """
    saved = saved_modules(model, files.config)
    check_fresh(files, fresh, saved)
    factors, whole = split_tensors(files, saved)
    expected = [name for name in adaptable_names(model) if is_target(name, files.config) and not is_inside(name, saved)]
    check_names(files, set(expected), set(factors))
    layers = {name: restored_layer(files, name, model.get_submodule(name), factors[name]) for name in expected}
    for module, tensors in whole.items():
        load_whole(files, model.get_submodule(module), module, tensors)
    return attach(model, layers, saved, {})


def saved_modules(model: nn.Module, config: PeftConfig) -> list[str]:
    """The model's modules named by `modules_to_save`, by PEFT's rule (the path ends with the name), outermost only."""
    names = config.modules_to_save or []
    found = [path for path, _ in model.named_modules() if path and any(path.endswith(name) for name in names)]
    return [path for path in found if not any(path.startswith(f"{other}.") for other in found)]


def check_fresh(files: AdapterFiles, fresh: Sequence[str], saved: Sequence[str]) -> None:
    absent = [module for module in fresh if not is_inside(module, saved)]
    if absent:
        problem = Problem(
            "the adapter lacks modules that the base checkpoint lacks too: they would be random",
            str(files.directory),
            found=f"modules_to_save: {', '.join(saved) or 'none'}",
            expected=", ".join(absent),
            remedy="train with these modules in modules_to_save, or evaluate a base that has them",
        )
        raise InputError(problem)


def split_tensors(
    files: AdapterFiles, saved: Sequence[str]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
    """Sort tensors into factors by module ({"A": ..., "B": ..., "m": ...}) and whole modules' tensors by module."""
    factors: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, dict[str, Tensor]] = {module: {} for module in saved}
    strangers: list[str] = []
    for key, tensor in files.tensors.items():
        owner = next((module for module in saved if key.startswith(f"{module}.")), None)
        match = FACTOR_KEY.fullmatch(key)
        if owner is not None:
            whole[owner][key.removeprefix(f"{owner}.")] = tensor
        elif match:
            factors.setdefault(match["module"], {})[match["factor"] or "m"] = tensor
        else:
            strangers.append(key)
    if strangers:
        raise InputError(tensor_problem(files, "unexpected tensors", strangers))
    return factors, whole


def tensor_problem(files: AdapterFiles, what: str, names: Iterable[str], expected: str = "") -> Problem:
    listed = sorted(names)
    more = f" and {len(listed) - 3} more" if len(listed) > 3 else ""
    return Problem(f"{what} in the adapter", str(files.directory / WEIGHTS), ", ".join(listed[:3]) + more, expected)


def check_names(files: AdapterFiles, expected: set[str], found: set[str]) -> None:
    problems = []
    if expected - found:
        problems.append(tensor_problem(files, "missing factors of modules", expected - found))
    if found - expected:
        problems.append(
            tensor_problem(files, "factors of modules that the base does not have or target", found - expected)
        )
    if not expected and not found:
        problems.append(tensor_problem(files, "no factors", []))
    if problems:
        raise InputError(*problems)


def restored_layer(files: AdapterFiles, name: str, base: nn.Module, tensors: dict[str, Tensor]) -> AdapterLayer:
    """The adapter layer of one module, from its tensors."""
    config, frozen = files.config, freeze(base)
    rank = pattern_value(config.rank_pattern, name, config.r)
    alpha = pattern_value(config.alpha_pattern, name, config.lora_alpha)
    shapes: dict[str, tuple[int, ...]] = {"A": (rank, frozen.in_features), "B": (frozen.out_features, rank)}
    if config.use_dora:
        shapes["m"] = (frozen.out_features,)
    check_shapes(files, name, shapes, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    scaling = Scaling.RSLORA if config.use_rslora else Scaling.STANDARD
    layer_kind = Layer.DORA if config.use_dora else Layer.LORA
    pair = (tensors["A"], tensors["B"])
    layer = build_layer(layer_kind, frozen, pair, scaling_factor(scaling, alpha, rank), config.lora_dropout)
    if layer.magnitude is not None:
        layer.magnitude.data = tensors["m"].to(layer.magnitude)
    return layer


def check_shapes(
    files: AdapterFiles, name: str, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    if dict(expected) != dict(found):
        where = f"{files.directory / WEIGHTS}, module {name}"
        raise InputError(
            Problem("the adapter's tensors do not fit the module", where, str(dict(found)), str(dict(expected)))
        )


def load_whole(files: AdapterFiles, module: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Load a module saved whole; every tensor of its state must be there with its shape."""
    state = module.state_dict()
    expected = {key: tuple(tensor.shape) for key, tensor in state.items()}
    check_shapes(files, name, expected, {key: tuple(tensor.shape) for key, tensor in tensors.items()})
    module.float().load_state_dict(dict(tensors))
