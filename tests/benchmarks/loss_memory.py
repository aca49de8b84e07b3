"""What the loss over a large vocabulary costs in memory: ours against transformers' own, on the same model and batch.

    python -m tests.benchmarks.loss_memory [--vocabulary 32000 --batch 8 --length 256 --answer 8 --width 512]

Every variant runs in a process of its own. `saved`: bytes that the graph holds for the backward pass; `peak`: the most
resident memory of forward and backward; both less those of the body alone. `gradients`: the largest difference between
our gradients and theirs, relative to the largest gradient.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from reflora_cli.console.output import show_table
from reflora_cli.data.encode_prompts import PromptRow, collate_prompts
from reflora_cli.methods.method import Method
from reflora_cli.model.language import hidden_states
from reflora_cli.objectives.language import LanguageLoss
from tests.language_models import prompt_row
from tests.models import injected

VARIANTS = ("body", "transformers", "reflora")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.loss_memory", description=__doc__)
    for name, default in (("vocabulary", 32000), ("batch", 8), ("length", 256), ("answer", 8), ("width", 512)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--repeats", type=int, default=3)
    return parser.parse_args()


def loss_of(variant: str, model: Any, rows: list[PromptRow]) -> Tensor:
    """The summed loss; for the body alone anything that sends a gradient through it."""
    batch = collate_prompts(rows, 0)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    loss: Tensor
    match variant:
        case "body":
            loss = hidden_states(model, **inputs, use_cache=False).last_hidden_state.sum() * 1e-3
        case "transformers":
            labels = torch.full_like(batch["input_ids"], -100)
            labels.view(-1)[batch["supervised"] + 1] = batch["targets"]
            loss = model(**inputs, labels=labels).loss * sum(row.weight for row in rows)
        case _:
            loss = LanguageLoss(model)(**batch)
    return loss


def measure(variant: str, chosen: argparse.Namespace, first: int, queue: Any) -> None:
    """Run one variant and report (saved bytes, peak bytes, gradients)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=chosen.vocabulary, hidden_size=chosen.width, intermediate_size=2 * chosen.width,
        num_hidden_layers=2, num_attention_heads=8, max_position_embeddings=chosen.length,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    adapted = injected(model, Method(name="lora", rank=8), [], [], seed=0)
    with torch.no_grad():
        for pair in adapted.pairs:
            pair.B.normal_(std=0.02)
    rows = [
        prompt_row(torch.randint(0, chosen.vocabulary, (chosen.length,)).tolist(), first) for _ in range(chosen.batch)
    ]
    loss_of("body", model, rows[:1]).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for parameter in adapted.parameters.values():
        parameter.grad = None
    loss = loss_of(variant, model, rows)
    loss.backward()
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    gradients = torch.cat([p.grad.flatten() for p in adapted.parameters.values() if p.grad is not None])
    if variant == "reflora":
        saved = alive_bytes(variant, model, rows)
    else:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss_of(variant, model, rows)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        saved = sum(size for place, size in storages.items() if place not in weights)
    queue.put((saved, peak, gradients.numpy()))


def alive_bytes(variant: str, model: Any, rows: list[PromptRow]) -> int:
    """Bytes that the graph still holds when the forward pass is over: chunks free theirs before it ends."""
    import weakref

    held: dict[int, tuple[weakref.ref[Any], int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage.data_ptr()] = (weakref.ref(storage), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loss_of(variant, model, rows)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    alive = sum(size for place, (ref, size) in held.items() if ref() is not None and place not in weights)
    assert loss.requires_grad
    return alive


def main() -> None:
    chosen = arguments()
    rows, figures = [], {}
    for label, first in (("answers only", chosen.length - chosen.answer), ("prompts too", 1)):
        found: dict[str, list[tuple[int, int, Any]]] = {variant: [] for variant in VARIANTS}
        for _ in range(chosen.repeats):
            for variant in VARIANTS:
                context = multiprocessing.get_context("spawn")
                queue = context.Queue()
                process = context.Process(target=measure, args=(variant, chosen, first, queue))
                process.start()
                found[variant].append(queue.get())
                process.join()
        saved, peak = (
            {name: statistics.median(run[index] for run in runs) for name, runs in found.items()} for index in (0, 1)
        )
        ours, theirs = found["reflora"][0][2], found["transformers"][0][2]
        difference = float(abs(ours - theirs).max() / abs(theirs).max())
        extra = {name: (saved[name] - saved["body"], peak[name] - peak["body"]) for name in ("transformers", "reflora")}
        figures[label] = {"extra": extra, "gradients": difference, "body": (saved["body"], peak["body"])}
        for index, kind in enumerate(("saved", "peak")):
            a, b = (extra[name][index] / 2**20 for name in ("transformers", "reflora"))
            rows.append((label, kind, f"{a:.1f}", f"{b:.1f}", f"{a / max(b, 1e-3):.1f}", f"{difference:.1e}"))
    show_table("MiB beyond the body", ("loss on", "memory", "transformers", "reflora", "ratio", "gradients"), rows)
    print(json.dumps(figures))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
