"""Compile the repeated blocks of a model for training, with the adapters in them.

Blocks and not the whole model: like blocks share one compiled graph, so that compiling takes as long as for one of
them, and what stands around them (embeddings, the loss in chunks, the hooks of data parallelism) need not be traced.
Checkpointing wraps blocks as before, and no parameter has another name.

Shapes are dynamic: neither the length of a batch nor its number of rows compiles anew. A block is compiled whole or not
at all. In evaluation blocks run as they are, so that scores are those that `reflora eval` finds, and an answer that
grows token by token compiles nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache, wraps
from typing import Any

import torch
from torch import nn

from reflora_cli.adapters.layer import Adapter

MOST_VARIANTS = 64
"""The number of variants of one kind of block from which on a block that fits none of them runs eagerly. Adapters of
other ranks are other variants, and a few come from masks, single rows and the first block's input."""
LONGEST_REASON = 200
"""The number of characters of a reason that are shown."""


@dataclass
class Compiling:
    """What became of the compilation of blocks.

    seconds: those that compiling took since they were last taken. failures: why calls ran eagerly, in order, one text
    for each reason, with whether it was told. began: when the compilation under way began.
    """

    seconds: float = 0.0
    failures: dict[str, bool] = field(default_factory=dict)
    began: float = 0.0

    def begin(self, *_: object) -> None:
        """Note that compiling begins."""
        self.began = time.perf_counter()

    def end(self, *_: object) -> None:
        """Count the seconds since `begin`."""
        self.seconds += time.perf_counter() - self.began

    def take(self) -> float:
        """Return the seconds, and count from zero again."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds

    def untold(self) -> list[str]:
        """Return the reasons that were not told yet."""
        found = [why for why, is_told in self.failures.items() if not is_told]
        self.failures.update(dict.fromkeys(found, True))
        return found


@contextmanager
def compiled(blocks: Sequence[nn.Module], mode: str, record: Compiling) -> Iterator[None]:
    """Run blocks compiled while they are trained, and as they were afterwards, whatever happens meanwhile.

    mode: one of torch.compile's. record: where time and failures are kept. A block that cannot be compiled for its
    inputs runs eagerly, whenever that happens.
    """
    from torch._dynamo import config

    with ExitStack() as undo:
        limit = max(config.recompile_limit, MOST_VARIANTS)
        undo.enter_context(config.patch(recompile_limit=limit))
        undo.enter_context(timed(record))
        for block in blocks:
            undo.enter_context(replaced_forward(block, region(block, mode, record)))
        yield


@contextmanager
def timed(record: Compiling) -> Iterator[None]:
    """Keep in a record how long torch compiles."""
    from torch._dynamo.callback import callback_handler

    callback_handler.register_start_callback(record.begin)
    callback_handler.register_end_callback(record.end)
    try:
        yield
    finally:
        # `torch.compiler.reset`, which anybody may call, has dropped both.
        with suppress(ValueError):
            callback_handler.remove_start_callback(record.begin)
        with suppress(ValueError):
            callback_handler.remove_end_callback(record.end)


@contextmanager
def replaced_forward(block: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a block have another forward pass. It may have had one of its own before, which others have given it."""
    before = {name: own for name, own in vars(block).items() if name == "forward"}
    vars(block)["forward"] = forward
    try:
        yield
    finally:
        del vars(block)["forward"]
        vars(block).update(before)


def region(block: nn.Module, mode: str, record: Compiling) -> Callable[..., Any]:
    """Return the block's forward pass, compiled where it is trained; after a failure it is eager for good, since every
    further attempt would take as long.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    eager = block.forward
    is_compiled = True
    adapters = [own for own in block.modules() if isinstance(own, Adapter)]

    @cache
    def graph() -> Callable[..., Any]:
        # Asked for by the first pass, whose errors are caught: torch refuses interpreters that it does not know.
        return torch.compile(eager, mode=mode, dynamic=True, fullgraph=True)

    @wraps(eager)
    def forward(*arguments: Any, **named: Any) -> Any:
        nonlocal is_compiled
        if not (is_compiled and block.training):
            return eager(*arguments, **named)
        try:
            for own in adapters:
                own.before_graph()
            return graph()(*arguments, **named)
        except (TorchDynamoException, FailOnRecompileLimitHit) as error:
            is_compiled = False
            record.failures.setdefault(reason(error), False)
        finally:
            for own in adapters:
                own.after_graph()
        return eager(*arguments, **named)

    return forward


def missing_compiler(device: torch.device) -> str:
    """Say what a machine lacks to compile for a CPU; nothing where nothing is missing. Torch finds it out behind a
    minute of tracing.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    if device.type != "cpu":
        return ""
    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError):
        return "no C++ compiler was found: install g++, or name one in the environment variable CXX"
    return ""


def reason(error: Exception) -> str:
    """Return what an error says, on one line. The compiler's say first who raised them; that of too many variants says
    only in its cause what was the matter.
    """
    found = error.__cause__ if type(error).__name__ == "FailOnRecompileLimitHit" else error
    lines = [line.strip() for line in str(found or error).splitlines() if line.strip()]
    text = next((line for line in lines if not line.endswith("raised:")), "") or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."
