"""Name the optional parts of an installation, what each is for, and how to get it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from reflora_cli.ground.errors import InputError, Problem


@dataclass(frozen=True)
class Extra:
    """An optional part. modules: what can be imported when it is there, with the package that brings it. purpose: what
    it is for.
    """

    name: str
    modules: Mapping[str, str]
    purpose: str

    @property
    def missing(self) -> tuple[str, ...]:
        """The packages that are not installed; nothing is imported to find out."""
        return tuple(package for module, package in self.modules.items() if importlib.util.find_spec(module) is None)

    @property
    def command(self) -> str:
        """The command that installs what is missing."""
        return f"pip install {' '.join(self.missing or self.modules.values())}"

    def only(self, modules: Iterable[str]) -> Extra:
        """Return the same part with some of its modules, for what needs no others."""
        return replace(self, modules={module: self.modules[module] for module in modules})

    def require(self, where: str = "") -> None:
        """Import all modules. Raises InputError where one is not installed, or is and cannot be imported. where: the
        setting that needs them.
        """
        try:
            for module in self.modules:
                importlib.import_module(module)
        except ImportError as error:
            raise InputError(self.problem(where, str(error))) from error

    def refuse_missing(self, where: str) -> None:
        """Raises InputError where a package is not installed; nothing is imported to find out."""
        if self.missing:
            raise InputError(self.problem(where, f"not installed: {', '.join(self.missing)}"))

    def problem(self, where: str, found: str) -> Problem:
        """Return the problem of a part that is needed and cannot be used, with the commands that install it."""
        remedy = f"{self.command}, or pip install '.[{self.name}]' in the directory of reflora's source"
        return Problem(f"a library is missing for {self.purpose}", where, found, remedy=remedy)


EXTRAS = {
    extra.name: extra
    for extra in (
        Extra("gguf", {"gguf": "gguf"}, "export to llama.cpp and Ollama"),
        Extra("nlg", {"rouge_score": "rouge-score", "sacrebleu": "sacrebleu"}, "scores of generated texts"),
        Extra("onnx", {"onnx": "onnx", "onnxruntime": "onnxruntime"}, "export to onnxruntime"),
        Extra("ray", {"ray": "ray"}, "comparisons on a cluster"),
        Extra("search", {"nevergrad": "nevergrad"}, "combine --how search"),
        Extra(
            "trackers",
            {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"},
            "experiment trackers",
        ),
    )
}
"""All optional parts by name, as `pip install '.[NAME]'` has them."""
