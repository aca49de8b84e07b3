"""Streamed weights: the products of the weights that they stand for, with two blocks in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from reflora_cli.adapters.block_homes import FileHome, Home, HostHome
from reflora_cli.adapters.block_stream import Block, BlockStream
from reflora_cli.adapters.frozen import FrozenWeight, freeze
from reflora_cli.adapters.quantized import quantize
from reflora_cli.adapters.streamed import StreamedWeight, frozen_weights, streamed_tensors
from reflora_cli.ground.errors import InputError

WIDTH, BLOCKS = 64, 4
KINDS = pytest.mark.parametrize("kind", ["linear", "linear without bias", "conv1d", "nf4", "int8"])


def weight_of(kind: str, seed: int) -> FrozenWeight:
    torch.manual_seed(seed)
    if kind == "conv1d":
        return freeze(Conv1D(WIDTH, WIDTH))
    linear = nn.Linear(WIDTH, WIDTH, bias=kind != "linear without bias")
    if kind in ("nf4", "int8"):
        return quantize(linear.weight.data, linear.bias, kind, double=True, dtype=torch.float32, layout=nn.Linear)
    return freeze(linear)


def in_host(tensors: list[Tensor]) -> Home:
    return HostHome(tensors)


def in_files(tensors: list[Tensor]) -> Home:
    """The home that reads copies, in the place of files."""
    copies = [tensor.detach().clone() for tensor in tensors]
    return FileHome(tensors, [copy.clone for copy in copies])


def streamed(kind: str, home: Callable[[list[Tensor]], Home] = in_host, per_block: int = 2) -> nn.Sequential:
    """Blocks of streamed weights one after the other."""
    weights = [[weight_of(kind, 10 * block + own) for own in range(per_block)] for block in range(BLOCKS)]
    blocks = []
    for members in weights:
        tensors = [tensor for own in members for tensor in streamed_tensors(own)]
        blocks.append(Block(tuple(tensors), home(tensors)))
    stream = BlockStream(blocks)
    return nn.Sequential(*(StreamedWeight(own, stream, n) for n, members in enumerate(weights) for own in members))


def resident(kind: str, per_block: int = 2) -> nn.Sequential:
    return nn.Sequential(*(weight_of(kind, 10 * block + own) for block in range(BLOCKS) for own in range(per_block)))


def stream_of(model: nn.Sequential) -> BlockStream:
    first = model[0]
    assert isinstance(first, StreamedWeight)
    return first.stream


def value_and_gradient(model: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(5)).requires_grad_()
    y = model(x)
    y.square().sum().backward()
    assert x.grad is not None
    return y.detach(), x.grad


@KINDS
@pytest.mark.parametrize("home", [in_host, in_files])
@pytest.mark.parametrize("shape", [(7, WIDTH), (2, 3, WIDTH)])
def test_values_and_gradients_are_those_of_resident_weights_to_the_bit(
    kind: str, home: Callable[[list[Tensor]], Home], shape: tuple[int, ...]
) -> None:
    expected = value_and_gradient(resident(kind), shape)
    model = streamed(kind, home)
    for _ in range(3):  # the second pass begins where the first has left the blocks
        found = value_and_gradient(model, shape)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@KINDS
def test_what_layers_ask_of_a_weight_is_answered_for_any_block(kind: str) -> None:
    model, plain = streamed(kind), resident(kind)
    for number in (5, 0, 7, 3):
        own, other = model[number], plain[number]
        assert isinstance(own, StreamedWeight)
        assert isinstance(other, FrozenWeight)
        assert torch.equal(own.dense(), other.dense())
        assert torch.equal(own.row_square_sums(), other.row_square_sums())
        assert torch.equal(own.thaw(own.dense()).weight, other.thaw(other.dense()).weight)
        assert torch.equal(own.weight, other.weight)


def test_at_most_two_blocks_have_memory_and_the_others_have_none() -> None:
    model = streamed("linear")
    stream = stream_of(model)
    own = list(frozen_weights(model))
    size = WIDTH * WIDTH * 4
    assert stream.resident_bytes == 4 * size
    assert stream.kept_bytes == 8 * size
    seen = list[int]()

    def look(*_: object) -> None:
        present = [weight.weight.untyped_storage().nbytes() for weight in own]
        seen.append(sum(nbytes > 4 for nbytes in present))
        assert len(stream.coming) + len(stream.free) <= 2

    for module in model:
        module.register_forward_hook(look)
    value_and_gradient(model, (3, WIDTH))
    assert seen == [2] * 6 + [4] * 2  # behind the last block the one before it stays for the backward pass
    assert all(weight.weight.isnan().all() for weight in own[4:])


def test_after_the_first_pass_every_block_is_brought_before_it_is_asked_for() -> None:
    """Forward, and backward from the last block to the first: the order in which training uses them."""
    model = streamed("linear")
    stream = stream_of(model)
    missed = list[int]()

    def watched(number: int, returning: bool, enter: Callable[[int, bool], None] = stream.enter) -> None:
        if number not in stream.coming:
            missed.append(number)
        enter(number, returning)

    stream.enter = watched  # type: ignore[method-assign]
    for _ in range(3):
        value_and_gradient(model, (3, WIDTH))
    assert missed == [0]
    missed.clear()
    model.eval()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(2, WIDTH))
    assert not missed


def test_inference_mode_leaves_a_stream_with_which_training_goes_on() -> None:
    model, expected = streamed("linear"), value_and_gradient(resident("linear"), (3, WIDTH))
    with torch.inference_mode():
        model(torch.randn(2, WIDTH))
    found = value_and_gradient(model, (3, WIDTH))
    assert torch.equal(found[1], expected[1])


def test_a_weight_that_is_used_past_its_products_is_right_forward_and_backward() -> None:
    """Some models, as Mamba, multiply by a layer's weight themselves; autograd keeps it while other blocks come."""
    found = []
    for model in (streamed("linear"), resident("linear")):
        x = torch.ones(3, WIDTH, requires_grad=True)
        hidden = x @ model[0].weight.T  # type: ignore[operator, union-attr]
        model[2:](hidden).sum().backward()
        found.append((hidden, x.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] is not None
    assert torch.equal(found[0][1], found[1][1])  # type: ignore[arg-type]


@KINDS
def test_a_moved_weight_is_kept_in_host_memory(kind: str) -> None:
    model, plain = streamed(kind), resident(kind)
    change = torch.randn(WIDTH, WIDTH) * 0.1
    own, other = model[3], plain[3]
    assert isinstance(own, StreamedWeight)
    assert isinstance(other, FrozenWeight)
    before = own.dense()
    assert own.moved(change) is own
    model(torch.randn(2, WIDTH))
    assert torch.equal(own.dense(), other.moved(change).dense())
    assert not torch.equal(own.dense(), before)


def test_a_weight_in_files_is_not_moved() -> None:
    own = streamed("linear", in_files)[3]
    assert isinstance(own, StreamedWeight)
    with pytest.raises(InputError, match="changes the base's weights"):
        own.moved(torch.zeros(WIDTH, WIDTH))


def test_products_in_half_precision_follow_autocast() -> None:
    model, plain = streamed("linear"), resident("linear")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x = torch.randn(3, WIDTH)
        assert model(x).dtype is torch.bfloat16
        assert torch.allclose(model(x).float(), plain(x).float(), atol=2e-2)


class Failing:
    """A home that cannot be read while it is broken."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.home, self.is_broken = HostHome(tensors), False
        self.layout = self.home.layout

    def bring(self, flat: Tensor) -> None:
        if self.is_broken:
            raise OSError("the disk is gone")
        self.home.bring(flat)

    def keep(self, number: int, values: Tensor) -> None:
        self.home.keep(number, values)


@pytest.mark.parametrize("broken", [0, 2])
def test_an_error_of_the_reader_reaches_the_user_and_no_block_is_taken_for_there(broken: int) -> None:
    """Also not the one that was there before, whose memory was given up for the one that failed."""
    model, x = streamed("linear", Failing), torch.randn(2, WIDTH)
    homes = [block.home for block in stream_of(model).blocks]
    model(x)
    failing = homes[broken]
    assert isinstance(failing, Failing)
    with torch.no_grad():
        model[-1](x)
        failing.is_broken = True
        with pytest.raises(OSError, match="the disk is gone"):
            model(x)
        failing.is_broken = False
        assert torch.equal(model[-1](x), resident("linear")[-1](x))
        assert torch.equal(model(x), resident("linear")(x))


def test_blocks_that_are_under_way_are_waited_for_when_the_device_changes() -> None:
    """Their memory is given back then."""
    model = streamed("linear")
    stream = stream_of(model)
    model(torch.randn(2, WIDTH))
    stream.worker.submit(time.sleep, 0.05)
    stream.begin(next(number for number in range(BLOCKS) if number not in stream.coming))
    coming = [copied for _, copied in stream.coming.values()]
    stream.place(torch.device("cpu"))
    assert all(copied.done() for copied in coming)
    assert torch.equal(model(torch.ones(2, WIDTH)), resident("linear")(torch.ones(2, WIDTH)))
