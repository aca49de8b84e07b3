"""Which modules of a model the targets of a method name, and which of them no adapter can serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

from reflora_cli.adapters.frozen import is_adaptable
from reflora_cli.adapters.target_patterns import matches
from reflora_cli.adapters.ties import is_inside, owner_of, shared_parameters
from reflora_cli.ground.errors import InputError, Problem, nearest


def match_targets(
    model: nn.Module, targets: tuple[str, ...] | Literal["all-linear"], saved: Sequence[str]
) -> dict[str, list[str]]:
    """Return the adaptable modules that each target pattern names.

    A pattern of letters, digits, `_` and `.` matches whole trailing parts of a module's path (`query`,
    `attention.output.dense`); any other pattern is a regular expression that must match the whole path.
    `all-linear` is every linear layer but the output embedding; the experts of most mixture models are not linear
    layers but stacked weights (`stacked_experts`), which are left as they are.
    """
    names = [name for name in adaptable_names(model) if not is_inside(name, saved)]
    if targets == "all-linear":
        output = output_embedding(model)
        found = [name for name in names if model.get_submodule(name) is not output]
        if not found:
            others = {type(own).__name__ for own in model.modules() if isinstance(own, nn.Linear)} - {"Linear"}
            kinds = ", ".join(sorted(others))
            raise InputError(
                Problem("the model has no linear layer to adapt", "method.targets", kinds, "Linear, Conv1D")
            )
        return {"all-linear": found}
    matched = {pattern: [name for name in names if matches(pattern, name)] for pattern in targets}
    empty = [unmatched(model, pattern, names) for pattern, found in matched.items() if not found]
    if empty:
        raise InputError(*empty)
    return matched


def refuse_shared(model: nn.Module, names: set[str]) -> None:
    """Raises InputError for a target whose weight stands in the model under several names: merged, they would differ.

    The output embedding may be tied to the input embedding: a merge unties it, as the model's config allows.
    """
    embeddings = {f"{path}.weight" for path in embedding_paths(model)}
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    modules = [found for found in paths.values() if len(found) > 1 and names & set(found)]
    parameters = [
        list(shared)
        for shared in shared_parameters(model)
        if names & set(map(owner_of, shared)) and not set(shared) <= embeddings
    ]
    for found in (modules + parameters)[:1]:
        what = "a target shares its weight with other modules, and such a weight cannot be adapted"
        raise InputError(Problem(what, "method.targets", ", ".join(found[:4]), remedy="leave it out of method.targets"))


def embedding_paths(model: nn.Module) -> list[str]:
    """Return the paths of the input and output embeddings of a transformers model, those that it has."""
    embeddings = [input_embedding(model), output_embedding(model)]
    return [path for path, module in model.named_modules() if any(module is own for own in embeddings)]


def stacked_experts(model: nn.Module) -> dict[str, int]:
    """Return the three-dimensional weights, which hold a matrix for each expert and have no adapter, with their
    sizes."""
    return {
        f"{path}.{name}": parameter.numel()
        for path, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3 and min(parameter.shape) > 1 and not hasattr(module, "kernel_size")
    }


def output_embedding(model: nn.Module) -> nn.Module | None:
    """Return the language-model head of a transformers model, if it has one."""
    find = getattr(model, "get_output_embeddings", None)
    return find() if callable(find) else None


def input_embedding(model: nn.Module) -> nn.Module | None:
    """Return the token embedding of a transformers model, if it has one that it can name."""
    find = getattr(model, "get_input_embeddings", None)
    try:
        return find() if callable(find) else None
    except NotImplementedError:
        return None


def adaptable_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if is_adaptable(module)]


def unmatched(model: nn.Module, pattern: str, names: Sequence[str]) -> Problem:
    """Why a pattern names no module, with the nearest names that exist. names: of the modules that may be adapted."""
    adaptable = adaptable_names(model)
    if experts := [name for name in stacked_experts(model) if matches(pattern, name)]:
        what = "a target matches stacked weights of experts, which cannot be adapted"
        remedy = "remove the target, or name linear layers"
        return Problem(what, "method.targets", f"{pattern!r}: {experts[0]}", "linear layers", remedy)
    if any(matches(pattern, name) for name in adaptable):
        what = "a target matches only modules that are trained and saved whole"
        remedy = "remove the target: such modules need no adapter"
        return Problem(what, "method.targets", repr(pattern), remedy=remedy)
    parts = {".".join(name.split(".")[-count:]) for name in names for count in (1, 2)}
    suffixes = {part for part in parts if not part.replace(".", "").isdigit()}
    remedy = nearest(pattern, suffixes)
    return Problem("a target matches no linear layer of the model", "method.targets", repr(pattern), remedy=remedy)
