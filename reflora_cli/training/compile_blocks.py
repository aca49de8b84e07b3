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
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import nn

from reflora_cli.adapters.layer import Adapter

MOST_VARIANTS = 64
"""The number of variants of one kind of block from which on a block that fits none of them runs eagerly. Adapters of
other ranks are other variants, and a few come from masks, single rows and the first block's input."""
LONGEST_REASON = 200
"""The number of characters of a reason that are shown."""


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the model's repeated blocks: the members of the outermost lists of modules of one class."""
    found: list[nn.Module] = []
    for child in model.children():
        alike = isinstance(child, nn.ModuleList) and len({type(own) for own in child}) == 1
        if alike and not any(isinstance(own, nn.ModuleList) for own in child.children()):
            found.extend(child.children())
        else:
            found.extend(blocks_of(child))
    return found


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
        self.began = time.perf_counter()

    def end(self, *_: object) -> None:
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
    """Run blocks compiled while they are trained, and as they were afterwards. mode: one of torch.compile's.

    record: where time and failures are kept. A block that cannot be compiled for its inputs runs eagerly, whenever
    that happens.
    """
    from torch._dynamo import config
    from torch._dynamo.callback import callback_handler

    limit, config.recompile_limit = config.recompile_limit, max(config.recompile_limit, MOST_VARIANTS)
    callback_handler.register_start_callback(record.begin)
    callback_handler.register_end_callback(record.end)
    try:
        for block in blocks:
            setattr(block, "forward", region(block, mode, record))  # noqa: B010 (a method, for mypy)
        yield
    finally:
        for block in blocks:
            vars(block).pop("forward", None)
        callback_handler.remove_start_callback(record.begin)
        callback_handler.remove_end_callback(record.end)
        config.recompile_limit = limit


def region(block: nn.Module, mode: str, record: Compiling) -> Callable[..., Any]:
    """Return the block's forward pass, compiled where it is trained; after a failure it is eager for good, since every
    further attempt would take as long.
    """
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    eager = block.forward
    graph = torch.compile(eager, mode=mode, dynamic=True, fullgraph=True)
    is_compiled = True
    adapters = [own for own in block.modules() if isinstance(own, Adapter)]

    @wraps(eager)
    def forward(*arguments: Any, **named: Any) -> Any:
        nonlocal is_compiled
        if not (is_compiled and block.training):
            return eager(*arguments, **named)
        try:
            for own in adapters:
                own.before_graph()
            return graph(*arguments, **named)
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
