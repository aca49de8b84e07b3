"""The adapter directory, in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

    base_model.model.<module>.<part>      what an adapter layer has, as A and B (`lora.py`)
    base_model.model.<module>.<tensor>    modules saved whole: the head, a fresh pooler
    base_model.<tensor>                   what all layers share, in some kinds of adapters

Beside PEFT's two files `reflora.json` records the base with the hash of its weights, the dtype of training, the label
names and which modules were saved together. Reading is strict: a missing, unexpected or misshapen tensor is an error,
since a silently absent adapter still gives plausible numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from reflora_cli.adapter_io.config import PeftConfig, read_json
from reflora_cli.adapter_io.formats import format_of, read_config
from reflora_cli.adapter_io.tensor_files import DTYPES
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.ties import is_inside, shared_parameters
from reflora_cli.ground.atomic import write_file, write_json
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.ground.paths import is_directory, is_file

PREFIX = PeftConfig.prefix
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "reflora.json"
PEFT_BASE = "base_model_name_or_path"
"""The entry of PEFT's config that names the base."""
PICKLED = "adapter_model.bin"
LARGEST_HEADER = 2**25
"""The most bytes of a header: some 300,000 tensors, three times those of an adapter on every expert of the largest
mixtures."""


@dataclass(frozen=True)
class AdapterFiles:
    """An adapter directory as read: PEFT's config, tensors by key without PEFT's prefix, our record if there is one."""

    directory: Path
    config: PeftConfig
    tensors: Mapping[str, Tensor]
    record: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The file of the tensors."""
        return self.directory / WEIGHTS

    def whole_key(self, key: str) -> str:
        """Return the key of a tensor in the file: with PEFT's prefix, unless the tensor belongs to no module."""
        return key if key in self.config.shared else f"{self.config.prefix}{key}"


def adapter_tensors(model: nn.Module, adapted: Adapted, saved: Sequence[str]) -> dict[str, Tensor]:
    """Return every tensor of the adapter under PEFT's key, on the CPU; modules that share a tensor each have it."""
    tensors: dict[str, Tensor] = {}
    prefix = format_of(adapted).config.prefix
    for name, layer in adapted.layers.items():
        tensors |= {f"{prefix}{name}.{part}": tensor for part, tensor in layer.tensors().items()}
        tensors |= layer.shared()
    tensors |= {f"{prefix}{name}": parameter for name, parameter in adapted.in_place.items()}
    for module in saved:
        for key, tensor in model.get_submodule(module).state_dict().items():
            tensors[f"{prefix}{module}.{key}"] = tensor
    return {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}


def with_ties(
    model: nn.Module, saved: Sequence[str], tensors: Mapping[str, Tensor], prefix: str = PREFIX
) -> dict[str, Tensor]:
    """Return the tensors of an adapter, completed by those of saved modules that share a parameter with one that is
    there.

    Adapters were once written without the modules that trained with a tied one. prefix: that of the tensors' keys.
    """
    complete = dict(tensors)
    for names in shared_parameters(model):
        keys = [f"{prefix}{name}" for name in names if is_inside(name, saved)]
        found = next((tensors[key] for key in keys if key in tensors), None)
        if found is not None:
            complete |= {key: found for key in keys if key not in tensors}
    return complete


def write_adapter(directory: Path, tensors: Mapping[str, Tensor]) -> None:
    """Replace the adapter's weights in one atomic step."""
    write_file(directory / WEIGHTS, save(unshared(tensors), metadata={"format": "pt"}))


def unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors in memory of their own, copied where two are one: the format knows no tensor of two names."""
    places = set[int]()
    found = {}
    for key, tensor in tensors.items():
        found[key] = tensor.clone() if tensor.numel() and tensor.data_ptr() in places else tensor
        places.add(tensor.data_ptr())
    return found


def write_adapter_config(directory: Path, config: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Write the files beside the weights; they stay the same for a whole run."""
    write_json(directory / CONFIG, config)
    write_json(directory / RECORD, record)


def read_adapter(directory: Path) -> AdapterFiles:
    """Read an adapter directory and check what can be known without a model; tensors are read when they are asked for.

    Raises InputError for anything missing, damaged or not supported.
    """
    check_place(directory)
    config = read_config(directory / CONFIG)
    tensors = TensorFile(directory / WEIGHTS, config.prefix)
    record = read_json(directory / RECORD) if is_file(directory / RECORD) else {}
    return AdapterFiles(directory, config, tensors, record)


def check_place(directory: Path) -> None:
    """Raises InputError where there is no adapter directory, and for weights in a format that is never loaded."""
    if is_file(directory):
        remedy = f"give the adapter's directory: {directory.parent}"
        raise InputError(Problem("the adapter is a file; a directory is expected", str(directory), remedy=remedy))
    if not is_file(directory / WEIGHTS) and is_file(directory / PICKLED):
        what = "the adapter's weights are pickled; pickled weights are never loaded"
        convert = f"save_file(torch.load('{PICKLED}', weights_only=True), '{WEIGHTS}')"
        remedy = f'convert them there: python -c "import torch; from safetensors.torch import save_file; {convert}"'
        raise InputError(Problem(what, str(directory / PICKLED), expected=WEIGHTS, remedy=remedy))
    for name in (CONFIG, WEIGHTS):
        if not is_file(directory / name):
            there = is_directory(directory)
            what = "this directory holds no adapter" if there else "the adapter directory does not exist"
            raise InputError(Problem(what, str(directory), expected=f"{CONFIG} and {WEIGHTS}, as PEFT writes them"))


class TensorFile(Mapping[str, Tensor]):
    """The tensors of an adapter's weights by key without PEFT's prefix, each read from the file when it is asked for.

    Raises InputError: at once for a damaged file, keys that differ by the prefix only and dtypes that adapters do not
    have; for a tensor with values that are not finite, when it is read.
    """

    file: Any

    def __init__(self, path: Path, prefix: str) -> None:
        self.path = path
        try:
            self.check_header()
            self.file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise InputError(Problem("the adapter's weights are damaged", str(path), str(error))) from error
        self.stored: dict[str, str] = {}
        for name in self.file.keys():  # noqa: SIM118 (the file is no mapping)
            other = self.stored.setdefault(name.removeprefix(prefix), name)
            if other != name:
                what, found = "two tensors of the adapter have the same name", f"{other} and {name}"
                raise InputError(Problem(what, str(path), found, remedy="keep the one that belongs to the adapter"))
        self.check_dtypes()

    def check_header(self) -> None:
        """Raises InputError for so many names that reading them alone would take more memory than an adapter."""
        with self.path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
        if LARGEST_HEADER < length <= self.path.stat().st_size:
            what, expected = "the adapter holds more tensors than any model has layers", f"at most {LARGEST_HEADER:,}"
            raise InputError(Problem(what, str(self.path), f"{length:,} bytes of names", expected))

    def check_dtypes(self) -> None:
        kinds = ((key, self.file.get_slice(name).get_dtype()) for key, name in self.stored.items())
        strange = [f"{key} ({DTYPES.get(kind, kind)})" for key, kind in kinds if DTYPES.get(kind) not in FLOATS]
        if strange:
            what = "the adapter holds tensors of a dtype that adapters do not have"
            expected = "float32, bfloat16 or float16"
            raise InputError(Problem(what, str(self.path), ", ".join(strange[:3]), expected))

    def __getitem__(self, key: str) -> Tensor:
        tensor: Tensor = self.file.get_tensor(self.stored[key])
        if not tensor.isfinite().all():
            raise InputError(Problem("the adapter holds NaN or infinite values", str(self.path), key))
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)
