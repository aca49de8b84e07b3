"""Blocks that are compiled for training follow eager ones.

Graphs are made and partitioned as by torch's own compiler, but run without its code, which takes seconds to compile:
`tests/cli/test_compiled.py` has that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from torch import Tensor, nn
from torch._dynamo.utils import counters

from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from reflora_cli.model.blocks import named_blocks
from reflora_cli.training.compile_blocks import Compiling, compiled, missing_compiler
from tests.method_runs import Training, copied
from tests.method_table import Case, adaptive_rates, preset
from tests.models import batch

# Of torch itself, where it traces what is no leaf of a graph.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

STEPS = 20
FOLLOWED = [
    *(Method(name="lora", layer=layer) for layer in LAYERS if layer not in ("lora", "dora")),
    *(preset(name) for name in ("lora", "dora", "reflora")),
]
"""Every layer, and one rule: rules act behind the blocks, on gradients and factors."""


@pytest.fixture(autouse=True)
def without_code(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile to graphs, and run these operation by operation."""
    torch.compiler.reset()
    counters.clear()
    compile_ = torch.compile

    def graphs(function: Any, *, mode: str, **more: Any) -> Any:
        assert mode == "default"
        return compile_(function, backend="aot_eager_decomp_partition", **more)

    monkeypatch.setattr(torch, "compile", graphs)
    yield
    torch.compiler.reset()


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return list(named_blocks(model).values())


def trained(case: Case, record: Compiling | None) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of twenty steps, and what they have trained."""
    training = Training(case)
    training.model.train()
    blocks = [] if record is None else blocks_of(training.model)
    with compiled(blocks, "default", record or Compiling()):
        losses = [training.step() for _ in range(STEPS)]
    assert not any("forward" in vars(block) for block in blocks)
    return losses, copied(training.adapted.parameters)


@pytest.mark.parametrize("method", FOLLOWED, ids=lambda method: method.label)
def test_compiled_training_follows_eager_training(method: Method) -> None:
    case = Case(method, adaptive_rates(method))
    eager, _ = trained(case, None)
    record = Compiling()
    found, _ = trained(case, record)
    assert not record.failures
    assert counters["stats"]["unique_graphs"] >= 1
    assert record.take() > 0
    assert found == pytest.approx(eager, rel=1e-5)
    assert eager[-1] < eager[0]


@pytest.mark.parametrize("base", ["bfloat16", "nf4"])
def test_it_follows_on_other_bases(base: str) -> None:
    """In bfloat16 within 2%: sums are rounded at other places."""
    case = Case(preset("dora"), adaptive_rates(preset("dora")), base)
    eager, _ = trained(case, None)
    record = Compiling()
    found, _ = trained(case, record)
    assert not record.failures
    assert found == pytest.approx(eager, rel=0.02 if base == "bfloat16" else 1e-5)


def test_lengths_rows_and_evaluation_compile_nothing_anew() -> None:
    """Also under recomputation, where the outcome stays that of eager blocks."""
    training = Training(Case(preset("dora"), adaptive_rates(preset("dora"))))
    model, record = training.model, Compiling()
    inputs = [batch(seed, rows, length)[0] for seed, (rows, length) in enumerate([(6, 9), (4, 7), (5, 12), (7, 30)])]
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    right = [gradients(training, own) for own in inputs]
    evaluated = model.eval()(**inputs[0]).logits
    with compiled(blocks_of(model), "default", record):
        model.train()
        assert_close(gradients(training, inputs[0]), right[0])
        before = counters["stats"]["unique_graphs"]
        for own, expected in zip(inputs[1:], right[1:], strict=True):
            assert_close(gradients(training, own), expected)
        assert torch.equal(model.eval()(**inputs[0]).logits, evaluated)
        assert counters["stats"]["unique_graphs"] == before > 0
    assert not record.failures


def gradients(training: Training, inputs: dict[str, Tensor]) -> list[Tensor]:
    loss = training.model(**inputs).logits.square().sum()
    return list(torch.autograd.grad(loss, list(training.adapted.parameters.values())))


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5 * float(other.abs().max()), rtol=1e-5)


class Unclear(nn.Module):
    """A module on whose values the way of the computation depends."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else x


def test_a_block_that_cannot_be_compiled_runs_eagerly_and_says_why() -> None:
    model = nn.Sequential(nn.ModuleList([Unclear()]))
    (block,), record, x = blocks_of(model), Compiling(), torch.ones(2, 3)
    expected = block(x)
    with compiled([block], "default", record):
        assert torch.equal(block(x), expected)
        assert torch.equal(block(x), expected)
    (why,) = record.untold()
    assert "branching" in why
    assert record.untold() == []


def test_too_many_variants_run_eagerly_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As from adapters whose ranks all differ."""
    monkeypatch.setattr("reflora_cli.training.compile_blocks.MOST_VARIANTS", 2)
    blocks: list[nn.Module] = [nn.Linear(width, 2) for width in range(3, 8)]
    record = Compiling()
    with torch._dynamo.config.patch(recompile_limit=2), compiled(blocks, "default", record):
        for block in blocks:
            x = torch.ones(2, block.in_features)
            torch.testing.assert_close(block(x), type(block).forward(block, x))
    assert any("limit" in why for why in record.failures)


def test_a_missing_compiler_is_found_before_anything_is_traced(tmp_path: Path) -> None:
    """A GPU's code needs no C++ compiler; a file that cannot be run is none."""
    (tmp_path / "not-to-run").write_text("")
    for name in ("no-such-compiler", str(tmp_path / "not-to-run")):
        with torch._inductor.config.patch({"cpp.cxx": (name,)}):
            assert "install g++" in missing_compiler(torch.device("cpu"))
            assert missing_compiler(torch.device("cuda")) == ""
    with torch._inductor.config.patch({"cpp.cxx": ("true",)}):  # a program that ends well
        assert missing_compiler(torch.device("cpu")) == ""


def test_a_block_gets_back_the_forward_pass_that_others_gave_it_also_when_training_fails() -> None:
    """As libraries do that wrap a module in place."""
    block, plain = nn.Linear(3, 3), nn.Linear(3, 3)

    def doubled(x: Tensor) -> Tensor:
        return 2 * nn.functional.linear(x, block.weight, block.bias)

    block.forward = doubled  # type: ignore[method-assign, assignment]
    x = torch.ones(2, 3)
    expected = block(x)

    def fail() -> None:
        with compiled([block, plain], "default", Compiling()):
            torch.testing.assert_close(block(x), expected)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert vars(block)["forward"] is doubled
    assert "forward" not in vars(plain)


def test_everything_is_put_back_where_the_compiler_was_reset_meanwhile() -> None:
    block, limit = nn.Linear(3, 3), torch._dynamo.config.recompile_limit
    with compiled([block], "default", Compiling()):
        block(torch.ones(2, 3))
        torch.compiler.reset()
    assert "forward" not in vars(block)
    assert torch._dynamo.config.recompile_limit == limit
    assert not torch._dynamo.callback.callback_handler.start_callbacks
    assert not torch._dynamo.callback.callback_handler.end_callbacks


def test_an_interpreter_that_the_compiler_refuses_is_known_from_the_first_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the rehearsal, which turns errors into a reason to train eagerly."""

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("torch.compile is not supported on this Python")

    monkeypatch.setattr(torch, "compile", refuse)
    block, x = nn.Linear(3, 3), torch.ones(2, 3)
    with compiled([block], "default", Compiling()):
        assert block.eval()(x).shape == (2, 3)
        with pytest.raises(RuntimeError, match="not supported"):
            block.train()(x)
