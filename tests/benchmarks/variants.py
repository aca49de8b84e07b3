"""A frozen base and every way to adapt it: our layers and PEFT's, all on the same frozen weights."""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
from collections.abc import Callable, Mapping
from typing import Any

import bitsandbytes
import peft
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import AutoModel, DebertaV2Config, DebertaV2Model, LlamaConfig, LlamaForCausalLM

from reflora_cli.adapters.quantized import from_bitsandbytes
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


def make_base(chosen: argparse.Namespace) -> Any:
    """A frozen base in training mode, made on its device: normal numbers for a billion weights take a CPU long."""
    torch.manual_seed(0)
    if chosen.base and chosen.base != "deberta":
        location = find_source(chosen.base, None).location
        model = AutoModel.from_pretrained(location, dtype=getattr(torch, chosen.dtype)).to(chosen.device)
    else:
        with torch.device(chosen.device):
            model = DebertaV2Model(deberta(chosen)) if chosen.base else LlamaForCausalLM(llama(chosen))
        model.to(getattr(torch, chosen.dtype))
    return model.requires_grad_(False).train()


def llama(chosen: argparse.Namespace) -> LlamaConfig:
    """A Llama of the chosen width, with a small vocabulary."""
    return LlamaConfig(
        vocab_size=1000, hidden_size=chosen.width, intermediate_size=chosen.width * 43 // 16,
        num_hidden_layers=chosen.layers or 8, num_attention_heads=max(8, chosen.width // 128),
        max_position_embeddings=chosen.length, use_cache=False,
    )  # fmt: skip


def deberta(chosen: argparse.Namespace) -> DebertaV2Config:
    """DeBERTaV3-base, with a small vocabulary."""
    return DebertaV2Config(
        vocab_size=1000, hidden_size=768, num_hidden_layers=chosen.layers or 12, num_attention_heads=12,
        intermediate_size=3072, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=256,
        norm_rel_ebd="layer_norm", share_att_key=True, position_biased_input=False, type_vocab_size=0,
        max_relative_positions=-1,
    )  # fmt: skip


def nothing() -> None:
    """What plain updates do around AdamW's step."""


def sharing(base: Any) -> Any:
    """A copy of a frozen model on the same weights, so that many ways to adapt it fit onto one GPU."""
    return copy.deepcopy(base, {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())})


def with_ours(base: Any, name: str, rank: int, targets: Any) -> Way:
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


def with_peft(base: Any, targets: Any, *, dora: bool) -> Way:
    wanted = targets if isinstance(targets, str) else list(targets)
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=wanted, use_dora=dora)
    return peft.get_peft_model(sharing(base), config), nothing


def with_their_reflora(base: Any, targets: Any) -> Way:
    """PEFT's LoRA with the authors' preconditioning before each step."""
    model, _ = with_peft(base, targets, dora=False)
    pairs = []
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer) and "default" in module.lora_A:
            A, B = module.lora_A["default"].weight, module.lora_B["default"].weight
            B.data.normal_(std=0.02)
            pairs.append(FactorPair(name, A, B, 1.0))
    return model, lambda: one_by_one([pair for pair in pairs if pair.A.grad is not None])


def variants(ours: Any, theirs: Any, targets: Any) -> dict[str, Way]:
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
        stack.callback(lambda name=name, record=record: print(f"{name}: {record}", file=sys.stderr))
        ways |= {name: built[name], f"{name}, compiled": (model, nothing)}
    return ways
