"""Every legal method against the properties that all of them share, from one table: `tests/method_table.py`."""

from __future__ import annotations

import copy
from math import isfinite
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import (
    CONFIG,
    PREFIX,
    RECORD,
    WEIGHTS,
    adapter_tensors,
    read_adapter,
    write_adapter,
    write_adapter_config,
)
from reflora_cli.adapter_io.formats import adapter_config, format_of
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapters.quantized import QuantizedWeight
from reflora_cli.ground.errors import InputError
from tests.method_runs import STOPS, Run, Training
from tests.method_table import ADAPTIVE, CASES, WARMUP


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest) -> Run:
    """One training of a case, on which its tests look; none of them changes it."""
    return Run(request.param)


every_case = pytest.mark.parametrize("run", CASES, ids=str, indirect=True)
"""What an optimizer has a part in."""
every_method = pytest.mark.parametrize("run", ADAPTIVE, ids=str, indirect=True)
NEARLY = {"lora-xs": 1e-2}
"""Layers that are only near their base at the start: X begins normal with a deviation of 1e-5, as published."""


ROUNDING = {"nf4": 0.12, "int8": 0.01}
"""What quantizing a weight may lose of its norm: it is 0.092 for normal entries in NF4, and 0.004 to 0.008 in int8."""
HALF = 0.05
"""What the roundings of one pass in bfloat16, of 2^-8 each, may add up to, as a share of the largest logit."""


def assert_near(found: Tensor, expected: Tensor, base: str, close: float) -> None:
    """Logits of one function, computed twice. close: how near they must be where all is computed in float32."""
    if base == "bfloat16":
        close = max(close, HALF * max(1.0, float(expected.abs().max())))
    torch.testing.assert_close(found, expected, atol=close, rtol=1e-5)


@every_method
def test_adapted_model_starts_as_its_base_unless_its_layer_says_otherwise(run: Run) -> None:
    training, method = run.training, run.training.case.method
    own, base = run.at_start, training.logits(training.base)
    if method.start.leaves_base:
        assert (own - base).abs().max() > 1e-3
    elif not method.layer.begins_as_base:
        assert (own - base).abs().max() > 1e-2
    elif method.start.moves_base and training.case.base in ROUNDING:
        assert_weights_are_near(run, ROUNDING[training.case.base])
    else:
        assert_near(own, base, training.case.base, NEARLY.get(method.layer.kind, 1e-5))


def assert_weights_are_near(run: Run, rounding: float) -> None:
    """A base that was moved is quantized again: its weights are off by that, and logits of a tiny model by much more.
    A start that corrects the quantization comes nearer to what was quantized than the base is.
    """
    for name, begun in run.merged_at_start.items():
        frozen = run.training.base.get_submodule(name)
        assert isinstance(frozen, QuantizedWeight)
        W, original = frozen.dense(), frozen.original()
        if run.training.case.method.start.corrects_quantization:
            assert (begun - original).norm() < (W - original).norm()
        else:
            assert (begun - W).norm() < rounding * W.norm()


NAMES = {
    "lora": {"A", "B"},
    "dora": {"A", "B", "magnitude"},
    "vera": {"d", "b"},
    "houlsby": {"down", "down_bias", "up", "up_bias"},
    "pfeiffer": {"down", "down_bias", "up", "up_bias"},
    "prompt": {"embedding"},
    "prefix": {"embedding"},
    "stella": {"A", "B", "S"},
    "adalora": {"A", "E", "B"},
    "ia3": {"l"},
    "lora-xs": {"X"},
}
"""The names of a layer's trained parameters."""


@every_method
def test_trained_names_are_exactly_the_expected_ones(run: Run) -> None:
    training, method = run.training, run.training.case.method
    kinds = NAMES.get(method.layer.kind, set()) - ({"A"} if method.update.holds_a else set())
    expected = {f"{name}.{kind}" for name in training.adapted.layers for kind in kinds}
    ending = {"bias": "bias", "full": ""}.get(method.layer.kind, "(none)")
    expected |= {name for name, _ in training.base.named_parameters() if name.endswith(ending)}
    expected |= {name for name, _ in training.base.named_parameters() if name.partition(".")[0] in training.head}
    with_gradient = {name for name, p in training.model.named_parameters() if p.requires_grad}
    assert with_gradient == expected == set(training.adapted.parameters)
    assert {p.dtype for p in training.adapted.parameters.values()} == {torch.float32}
    grouped = [p for group in training.optimizer.param_groups for p in group["params"]]
    assert sorted(map(id, grouped)) == sorted(map(id, training.adapted.parameters.values()))


@every_case
def test_every_trained_tensor_moves_within_warmup_and_two_steps_and_the_loss_falls(run: Run) -> None:
    early = run.kept[WARMUP + 2].parameters
    assert [name for name, first in run.first.items() if torch.equal(early[name], first)] == []
    assert all(map(isfinite, run.losses))
    assert run.losses[-1] < 0.5 * run.losses[0]


@every_method
def test_merged_model_computes_what_the_adapted_one_does(run: Run) -> None:
    """Virtual tokens are in no module that a plain one could replace, which their record says."""
    training = run.training
    if training.case.method.layer.is_virtual:
        assert training.case.method.layer.not_merged
        return
    adapted, merged = training.logits(training.model), copy.deepcopy(training.model)
    for name, layer in training.adapted.layers.items():
        merged.set_submodule(name, layer.plain(training.dtype))
    assert not any("frozen" in name for name, _ in merged.named_parameters())
    assert_near(training.logits(merged), adapted, training.case.base, 2e-5)
    assert (adapted - training.logits(training.base)).abs().max() > 2 * HALF


@every_method
def test_saved_adapter_loads_bit_exactly_and_strictly(run: Run, tmp_path: Path) -> None:
    training = run.training
    tensors = adapter_tensors(training.model, training.adapted, training.head)
    described = (training.case.method, training.head, NamedBase("base", None), "SEQ_CLS")
    config = adapter_config(training.model, training.adapted, *described)
    write_adapter_config(tmp_path, config, format_of(training.adapted).record(training.adapted))
    write_adapter(tmp_path, tensors)

    fresh = copy.deepcopy(training.base)
    load_adapter(fresh, read_adapter(tmp_path), training.head)
    assert torch.equal(training.logits(fresh), training.logits(training.model))

    for change in ("missing", "unexpected"):
        changed = load_file(tmp_path / WEIGHTS)
        key = next(key for key in changed if not any(f".{head}." in key for head in training.head))
        own = changed.pop(key)
        if change == "unexpected":
            changed |= {key: own, f"{PREFIX}bert.nowhere.{'.'.join(key.split('.')[-2:])}": own.clone()}
        other = tmp_path / change
        other.mkdir()
        save_file(changed, other / WEIGHTS)
        for name in (CONFIG, RECORD):
            (other / name).write_bytes((tmp_path / name).read_bytes())
        with pytest.raises(InputError):
            load_adapter(copy.deepcopy(training.base), read_adapter(other), training.head)


@every_case
def test_interrupted_training_equals_uninterrupted(run: Run) -> None:
    """Everything that advances is in the optimizer's tensors: moments, counters, cached matrices. The training is
    interrupted after each of some steps, and its tensors are as if it had not been.
    """
    part = Training(run.training.case)
    part.model.train()
    for begin, end in zip((0, *STOPS), STOPS, strict=False):
        for _ in range(begin, end):
            part.step()
        kept, whole = part.kept(), run.kept[end]
        assert kept.parameters.keys() == whole.parameters.keys()
        assert kept.optimizer.keys() == whole.optimizer.keys()
        for own, expected in ((kept.parameters, whole.parameters), (kept.optimizer, whole.optimizer)):
            assert [name for name, tensor in own.items() if not torch.equal(tensor, expected[name])] == [], end
        part.continue_from(kept)
