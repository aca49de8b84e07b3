"""Tell by its name what each tensor of an adapter is: a factor, part of a module saved whole, a parameter of the base
that was trained where it is, or a copy of the base's.

Anything else is refused by name. Nothing is read from the file here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from reflora_cli.adapter_io.checks import tensor_problem
from reflora_cli.adapter_io.config import PeftConfig
from reflora_cli.adapter_io.files import AdapterFiles
from reflora_cli.adapter_io.formats import FORMATS
from reflora_cli.adapters.targets import embedding_paths, input_embedding
from reflora_cli.adapters.ties import is_inside, owner_of, shared_parameters
from reflora_cli.ground.errors import InputError, Problem

KINDS = {
    r".*\.lora_embedding_[AB](\..*)?": "LoRA on an embedding, which is not supported",
    r".*\.lora_[AB]\.bias": "a bias of LoRA's own, which is not supported",
    r".*\.lora_(A|B|magnitude_vector)\.[^.]+(\.weight)?": "a key with an adapter's name in it: save it by PEFT's "
    "save_pretrained, which leaves the name out",
    r".*\.(modules_to_save|original_module)\..*": "a key of PEFT's wrappers: save it by PEFT's save_pretrained",
    r".*\.base_layer\..*": "a copy of a weight of the base that is not an embedding",
    r".*\.bias": "a bias of the base, and adapters that change biases are not supported",
}
"""What the names of tensors that are not ours say about them; the first pattern that matches the whole name counts."""
EMBEDDING_NAMES = ("embed_tokens", "lm_head")
"""The modules whose names make PEFT heed `ensure_weight_tying`."""


@dataclass
class AdapterKeys:
    """Keys of an adapter's tensors, by the module that each belongs to and by what they are there.

    layers: parts of adapter layers. whole: tensors of modules saved whole, by their names in the module. in_place:
    parameters of the base that were trained where they are, by their names in the module that holds them. copies:
    tensors of the base's embeddings, by their names in the module.
    """

    layers: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: dict[str, dict[str, str]] = field(default_factory=dict)
    in_place: dict[str, dict[str, str]] = field(default_factory=dict)
    copies: dict[str, dict[str, str]] = field(default_factory=dict)


def sorted_keys(model: nn.Module, files: AdapterFiles, saved: Sequence[str]) -> AdapterKeys:
    """Return the keys of all tensors by what they are. Raises InputError for keys that belong to nothing.

    Beside a LoRA on an embedding, and for a vocabulary that was resized, PEFT writes copies of the base's embeddings.
    """
    keys = AdapterKeys(whole={module: {} for module in saved})
    embeddings, in_place = embedding_paths(model), set(files.config.in_place)
    strangers: list[str] = []
    for key in files.tensors:
        if key in files.config.shared:
            continue
        owner = next((module for module in saved if key.startswith(f"{module}.")), None)
        embedding = next((module for module in embeddings if key.startswith(f"{module}.")), None)
        part = FORMATS[files.config.peft_type].part(key)
        if owner is not None:
            keys.whole[owner][key.removeprefix(f"{owner}.")] = key
        elif part is not None:
            keys.layers.setdefault(part[0], {})[part[1]] = key
        elif key in in_place:
            keys.in_place.setdefault(owner_of(key), {})[key.rpartition(".")[2]] = key
        elif embedding is not None and (name := base_name(key, embedding)) is not None:
            keys.copies.setdefault(embedding, {})[name] = key
        else:
            strangers.append(key)
    if strangers:
        raise InputError(stranger_problem(files, strangers))
    return keys


def base_name(key: str, module: str) -> str | None:
    """Return the name in the base's module of a tensor that an adapter may copy; None for any other name."""
    name = key.removeprefix(f"{module}.").removeprefix("base_layer.")
    return name if name in ("weight", "bias") else None


def stranger_problem(files: AdapterFiles, strangers: Sequence[str]) -> Problem:
    kind = next((text for pattern, text in KINDS.items() if re.fullmatch(pattern, strangers[0])), "")
    own = "parameters of trained_parameters" if files.config.in_place else "factors"
    expected = f"{own}, and tensors of the modules in modules_to_save"
    problem = tensor_problem(files.weights, "unexpected tensors", strangers, expected)
    return Problem(problem.what, problem.where, f"{problem.found}{f': {kind}' if kind else ''}", problem.expected)


def saved_modules(model: nn.Module, config: PeftConfig) -> list[str]:
    """Return the paths of the modules saved whole, by PEFT's rule (the path ends with the name), outermost only."""
    names = (*(config.modules_to_save or ()), *ensured(model, config))
    paths = (path for path, _ in model.named_modules(remove_duplicate=False))
    found = [path for path in paths if path and path.endswith(names)]
    return [path for path in found if not is_inside(path, [other for other in found if other != path])]


def ensured(model: nn.Module, config: PeftConfig) -> list[str]:
    """Return the input embedding and the modules tied to it, if PEFT saves them because of `ensure_weight_tying`.

    PEFT follows the setting only if a module to save has a name that embeddings of most models have.
    """
    names = [name.rpartition(".")[2] for name in config.modules_to_save or ()]
    if not config.ensure_weight_tying or not any(name in EMBEDDING_NAMES for name in names):
        return []
    embedding = input_embedding(model)
    paths = [path for path, module in model.named_modules() if module is embedding]
    tied = (set(map(owner_of, shared)) for shared in shared_parameters(model))
    return sorted(set().union(*(owners for owners in tied if owners & set(paths))))
