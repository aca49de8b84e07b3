"""Steps of LoRA on a base of the shape of Llama 3.1 8B in NF4, whose blocks come to the device one after the other:
what they take of its memory, and how long a step is.

    python -m tests.gpu.streamed [--device cuda] [--length 512 --rank 16 --steps 4] [--layers 32 --width 4096]

Weights are random. All blocks have the codes of the first one, because quantizing eight billion weights would take
minutes; each block has a copy of its own in host memory, as in a real run. Activations are recomputed, and moments are
in eight bits.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from reflora_cli.adapters.frozen import as_parameter
from reflora_cli.adapters.quantized import quantize
from reflora_cli.console.output import show_table
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Optimizer, Streaming
from reflora_cli.model.precision import precision
from reflora_cli.model.sources import find_source
from reflora_cli.model.streaming import stream_blocks, stream_of
from reflora_cli.objectives.language import LanguageLoss
from reflora_cli.optim.build import Rates, build_optimizer
from reflora_cli.training.prepare import roles_in
from tests.models import injected

GIB = 2**30


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.streamed", description=__doc__)
    parser.add_argument("--device", default="cuda")
    defaults = {"length": 512, "rank": 16, "steps": 4, "layers": 32, "width": 4096, "vocabulary": 128256}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def config_of(chosen: argparse.Namespace) -> LlamaConfig:
    """Llama 3.1 8B's config, unless another size is asked for."""
    heads = max(4, chosen.width // 128)
    return LlamaConfig(
        vocab_size=chosen.vocabulary, hidden_size=chosen.width, intermediate_size=chosen.width * 7 // 2,
        num_hidden_layers=chosen.layers, num_attention_heads=heads, num_key_value_heads=heads // 4,
        max_position_embeddings=chosen.length, tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip


def random_base(config: LlamaConfig) -> Any:
    """A model in bfloat16 whose blocks are quantized; no more than one block exists in bfloat16."""
    layers, config.num_hidden_layers = config.num_hidden_layers, 1
    torch.set_default_dtype(torch.bfloat16)
    model: Any = LlamaForCausalLM(config).requires_grad_(False)
    torch.set_default_dtype(torch.float32)
    block = model.model.layers[0]
    for name, module in list(block.named_modules()):
        if isinstance(module, nn.Linear):
            block.set_submodule(
                name, quantize(module.weight.data, None, "nf4", double=True, dtype=torch.bfloat16, layout=nn.Linear)
            )
    for number in range(1, layers):
        model.model.layers.append(another(block, number))
    config.num_hidden_layers = layers
    return model


def another(block: Any, number: int) -> Any:
    """A block of the model with this number, whose tensors have the same memory until a block's are sent home."""
    same = {id(own): as_parameter(own) for own in block.parameters()}
    same |= {id(own): own.detach() for own in block.buffers()}
    made = copy.deepcopy(block, same)
    made.self_attn.layer_idx = number
    return made


def trainer(chosen: argparse.Namespace, device: torch.device) -> tuple[Any, Any]:
    """The model with its adapters on the device, and the optimizer."""
    model = random_base(config_of(chosen))
    stream_blocks(model, Streaming.HOST, find_source("builtin:tiny-llama", None), absent=())
    method = Method(name="lora", rank=chosen.rank, targets="all-linear")
    adapted = injected(model, method, ["lm_head"], [], seed=0)
    model.lm_head.requires_grad_(False)
    model.to(device).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, build_optimizer(method, roles_in(adapted), Rates(1e-4, None, 0.0, Optimizer.ADAMW_8BIT))


def main() -> None:
    chosen = arguments()
    device, on_gpu = torch.device(chosen.device), chosen.device.startswith("cuda")
    model, optimizer = trainer(chosen, device)
    ids = torch.randint(0, chosen.vocabulary, (1, chosen.length + 1)).to(device)
    loss_module, places = LanguageLoss(model), torch.arange(chosen.length, device=device)
    seconds, losses = [], list[float]()
    for _ in range(chosen.steps):
        begin = time.perf_counter()
        with precision(device, torch.bfloat16):
            loss: Tensor = loss_module(places, ids[0, 1:], input_ids=ids[:, :-1]) / chosen.length
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - begin)
    stream = stream_of(model)
    assert stream is not None
    figures = {
        "seconds": seconds, "losses": losses, "tokens": chosen.length, "kept_bytes": stream.kept_bytes,
        "peak_bytes": torch.cuda.max_memory_reserved() if on_gpu else None,
    }  # fmt: skip
    peak = f"{torch.cuda.max_memory_reserved() / GIB:.2f}" if on_gpu else "a GPU's alone"
    row = (
        f"{chosen.layers} x {chosen.width}", peak, f"{stream.kept_bytes / GIB:.2f}",
        f"{statistics.median(seconds[1:] or seconds):.2f}", f"{losses[0]:.2f} to {losses[-1]:.2f}",
    )  # fmt: skip
    columns = ("blocks", "GiB of the device, without CUDA's context", "GiB of host memory", "s a step", "loss")
    show_table(f"a streamed base in NF4, LoRA of rank {chosen.rank}, 1 x {chosen.length}", columns, [row])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
