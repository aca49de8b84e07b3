"""Where the weights of blocks are kept: what a home brings is what it was given, and files that are gone are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from reflora_cli.adapter_io.tensor_files import tensor_places
from reflora_cli.adapters.block_homes import FileHome
from reflora_cli.ground.errors import InputError


def test_files_bring_their_tensors_until_they_are_gone(tmp_path: Path) -> None:
    """In the dtype of the model, whatever that of the files is."""
    file = tmp_path / "model.safetensors"
    weights = {"a": torch.randn(3, 5).half(), "b": torch.randn(7, 2).half()}
    save_file(weights, file)
    places = tensor_places(tmp_path)
    home = FileHome([own.float() for own in weights.values()], [places[name].read for name in weights])
    flat = torch.empty(home.layout.size, dtype=torch.uint8)
    home.bring(flat)
    for own, expected in zip(home.layout.views(flat), weights.values(), strict=True):
        assert torch.equal(own, expected.float())
    file.unlink()
    with pytest.raises(InputError, match="can no longer be read") as caught:
        home.bring(flat)
    (problem,) = caught.value.problems
    assert "model.safetensors" in problem.found
    assert "--resume" in problem.remedy
