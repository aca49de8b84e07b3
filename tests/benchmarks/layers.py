"""A training step's forward and backward pass: ours and PEFT's layers over the frozen base, interleaved.

    python -m tests.benchmarks.layers [--rounds 15 --threads 2 --dtype float32 --layers 8 --width 512]

A Llama of 8 layers of 512, batch 8 x 128, rank 16 on q, k, v, up and down. The floor is the frozen base with gradients
through the activations only. The rows of RefLoRA and RefLoRA-S have what they do around AdamW's step too. `saved` are
the activations that the graph keeps for the backward pass, without weights.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from reflora_cli.adapters.inject import inject
from reflora_cli.console import show_table
from reflora_cli.methods import Method, Refactor
from reflora_cli.optim.build import Rates, build_optimizer

TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
RANK = 16


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.layers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    for name, default in (("layers", 8), ("width", 512), ("batch", 8), ("length", 128)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def make_base(chosen: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=chosen.width, intermediate_size=chosen.width * 43 // 16,
        num_hidden_layers=chosen.layers, num_attention_heads=8, max_position_embeddings=chosen.length,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, chosen.dtype)).to(chosen.device).requires_grad_(False)
    return model.train()


def nothing() -> None:
    """What plain updates do around AdamW's step."""


def with_ours(base: Any, name: str) -> tuple[Any, Callable[[], None]]:
    """The adapted model, and what its update rule does in a step."""
    model = copy.deepcopy(base)
    method = Method(name=name, rank=RANK, targets=TARGETS, refactor=Refactor(warmup_steps=1))
    adapted = inject(model, method, [], [], seed=0)
    model.to(base.device)
    for pair in adapted.pairs:
        pair.B.data.normal_(std=0.02)
    rates = Rates(1e-5, None, 0.0)
    optimizer = build_optimizer(method, adapted.pairs, adapted.magnitudes, {}, rates, half_precision=False)
    for _ in range(2):  # past the warm-up, with moments to transport
        for parameter in adapted.parameters.values():
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()

    def rule() -> None:
        optimizer.rule.before_step()
        optimizer.rule.after_step(optimizer.state)

    return model, rule


def with_peft(base: Any, dora: bool) -> tuple[Any, Callable[[], None]]:
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS), use_dora=dora)
    return peft.get_peft_model(copy.deepcopy(base), config), nothing


def variants(base: Any) -> dict[str, tuple[Any, Callable[[], None]]]:
    return {
        "frozen floor": (copy.deepcopy(base), nothing),
        "reflora lora": with_ours(base, "lora"),
        "reflora reflora": with_ours(base, "reflora"),
        "reflora reflora-s": with_ours(base, "reflora-s"),
        "reflora dora": with_ours(base, "dora"),
        "PEFT lora": with_peft(base, False),
        "PEFT dora": with_peft(base, True),
    }


def stepper(model: Any, embedded: Tensor) -> Callable[[], Tensor]:
    """The forward pass to a scalar; inputs are embeddings with gradients, so that the floor has a backward pass."""
    half = embedded.dtype is not torch.float32

    def forward() -> Tensor:
        inputs = embedded.detach().requires_grad_()
        with torch.autocast(embedded.device.type, dtype=torch.bfloat16, enabled=half):
            logits = model(inputs_embeds=inputs, use_cache=False).logits
        loss: Tensor = logits.float().square().mean()
        return loss

    return forward


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


def main() -> None:
    chosen = arguments()
    torch.set_num_threads(chosen.threads)
    base = make_base(chosen)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 1000, (chosen.batch, chosen.length), generator=generator).to(chosen.device)
    embedded = base.get_input_embeddings()(ids)
    built = variants(base)
    models = {name: model for name, (model, _) in built.items()}
    forwards = {name: stepper(model, embedded) for name, model in models.items()}
    saved = {name: saved_bytes(forwards[name], models[name]) for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for number in range(chosen.rounds + 2):
        for name, forward in forwards.items():
            models[name].zero_grad(set_to_none=True)
            for parameter in models[name].parameters():
                if parameter.requires_grad:
                    torch.autograd.graph.increment_version(parameter)  # as after an optimizer step
            begin = time.perf_counter()
            forward().backward()
            built[name][1]()
            if chosen.device != "cpu":
                torch.accelerator.synchronize()
            if number >= 2:
                seconds[name].append(time.perf_counter() - begin)
    floor = statistics.median(seconds["frozen floor"])
    rows = []
    for name, own in seconds.items():
        low, _, high = statistics.quantiles(own, n=4)
        median = statistics.median(own)
        spread = f"{1e3 * low:.0f} to {1e3 * high:.0f}"
        rows.append((name, f"{1e3 * median:.0f}", spread, f"{median / floor:.3f}", f"{saved[name] / 2**20:.0f}"))
    columns = ("layers", "ms", "quartiles", "ratio to the floor", "saved MiB")
    show_table(f"{chosen.dtype}, {chosen.threads} threads, {chosen.device}", columns, rows)
    print(json.dumps({"seconds": seconds, "saved": saved}))


if __name__ == "__main__":
    main()
