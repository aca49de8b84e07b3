"""Memory and time of training with LoRA on a streamed base against a resident one, on a CPU; and what a base of eight
billion weights in NF4 would take of a GPU, which is computed and not measured.

    python -m tests.benchmarks.streaming [--layers 24 --width 1024 --vocabulary 54000 --steps 4 --rounds 2]
        [--base DIR]

Each run has a process of its own: it loads a random Llama in float32, takes one step to warm up and then the timed
ones, with one row of 64 tokens. Peaks are of the whole process (VmHWM), and of what it has above its imports. Runs of
the three kinds alternate, and a step's time is the median of all rounds, with the least and the largest.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from reflora_cli.console.output import show_table
from reflora_cli.data.encode_prompts import collate_prompts
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Streaming
from reflora_cli.model.language import load_language_model
from reflora_cli.model.sources import find_source
from reflora_cli.model.streaming import stream_of
from reflora_cli.objectives.language import LanguageLoss
from reflora_cli.objectives.token_loss import CHUNK_ELEMENTS, LOGIT_BYTES
from reflora_cli.recipe.sections import ModelSection
from tests.language_models import prompt_row
from tests.models import injected

GIB = 2**30
METHOD = Method(name="lora", rank=16)
TOKENS = 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.streaming", description=__doc__)
    defaults = {"layers": 24, "width": 1024, "vocabulary": 54000, "steps": 4, "rounds": 2}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--base", type=Path, help="a directory in which the random model is kept for another time")
    return parser.parse_args()


def peak() -> int:
    """The most bytes that this process has had resident."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def make_base(chosen: argparse.Namespace, directory: Path) -> dict[str, int]:
    """Write a random model if it is not there; its bytes, and those of its blocks."""
    config = LlamaConfig(
        vocab_size=chosen.vocabulary, hidden_size=chosen.width, intermediate_size=11 * chosen.width // 4,
        num_hidden_layers=chosen.layers, num_attention_heads=chosen.width // 64, max_position_embeddings=512,
        tie_word_embeddings=False,
    )  # fmt: skip
    if not (directory / "config.json").exists():
        LlamaForCausalLM(config).save_pretrained(directory, max_shard_size="400MB")
        AutoTokenizer.from_pretrained(find_source("builtin:tiny-llama", None).location).save_pretrained(directory)
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    blocks = sum(own.nbytes for own in model.model.layers.parameters())
    return {"bytes": sum(own.nbytes for own in model.parameters()), "blocks": blocks}


def train(kind: str, directory: Path, steps: int, queue: Any) -> None:
    """Report peaks of memory and the seconds of each step."""
    section = ModelSection(name=str(directory), streaming=Streaming(kind))
    load_language_model(section.model_copy(update={"name": "builtin:tiny-llama"}), None, torch.float32)
    torch.set_num_threads(1)
    before = peak()
    base = load_language_model(section, None, torch.float32)
    loaded = peak()
    adapted = injected(base.model, METHOD, [], [], seed=0)
    optimizer = torch.optim.AdamW(adapted.parameters.values(), lr=1e-4)
    base.model.train()
    loss_module, batch = LanguageLoss(base.model), collate_prompts([prompt_row(range(TOKENS), 32)], 0)
    seconds, losses = list[float](), list[float]()
    for _ in range(steps + 1):
        begin = time.perf_counter()
        loss = loss_module(**batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
        losses.append(loss.item())
    stream = stream_of(base.model)
    queue.put({"loaded": loaded - before, "peak": peak(), "rise": peak() - before, "seconds": seconds[1:],
               "losses": losses, "resident": 0 if stream is None else stream.resident_bytes})  # fmt: skip


def measured(chosen: argparse.Namespace) -> dict[str, Any]:
    """The figures of all kinds."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # the model's maker takes its memory with it
            place = chosen.base or Path(name)
            found["base"] = pool.apply(make_base, (chosen, place))
        for _ in range(chosen.rounds):
            for kind in Streaming:
                queue = context.Queue()
                process = context.Process(target=train, args=(kind.value, place, chosen.steps, queue))
                process.start()
                own = queue.get()
                process.join()
                print(kind.value, json.dumps(own), file=sys.stderr)
                known = found.setdefault(kind.value, {**own, "seconds": []})
                known["seconds"] += own["seconds"]
                assert own["losses"] == known["losses"]
    return found


def shown(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """The rows of the table."""
    plain = statistics.median(found["none"]["seconds"])
    rows = []
    for kind in Streaming:
        own = found[kind.value]
        middle, loss = statistics.median(own["seconds"]), own["losses"][-1]
        span = f"{middle:.2f} ({min(own['seconds']):.2f} to {max(own['seconds']):.2f})"
        sizes = (f"{own[key] / GIB:.2f}" for key in ("loaded", "rise", "peak"))
        rows.append((kind.value, *sizes, span, f"{middle / plain:.2f}", f"{loss:.5f}"))
    return rows


def eight_billion(tokens: int) -> dict[str, int]:
    """Bytes by part on a GPU: Llama 3.1 8B in NF4 (64 weights share a scale of 8 bits), two blocks streamed, and
    bfloat16, LoRA on all linear layers, AdamW in float32, gradient checkpointing, one row of so many tokens.
    """
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    block = [own for own in model.model.layers[0].modules() if isinstance(own, nn.Linear)]
    in_blocks = len(model.model.layers) * sum(own.weight.numel() for own in block)
    trained = len(model.model.layers) * sum(METHOD.rank * (own.in_features + own.out_features) for own in block)
    passing = tokens * 2 * sum(own.in_features + own.out_features for own in block)
    dense = 2 * max(own.weight.numel() for own in block)
    logits = LOGIT_BYTES * config.vocab_size * min(tokens, CHUNK_ELEMENTS["cuda"] // config.vocab_size)
    return {
        "embeddings, head and norms, bfloat16": 2 * (sum(own.numel() for own in model.parameters()) - in_blocks),
        "two blocks in NF4": 2 * sum(nf4_bytes(own.weight.numel()) for own in block),
        "A and B, their gradients and moments": 4 * 4 * trained,
        "inputs of all blocks": len(model.model.layers) * tokens * 2 * config.hidden_size,
        "logits and their loss, or a block's activations and its largest weight": max(logits, passing + dense),
        "(all blocks in NF4, in host memory)": in_blocks // sum(own.weight.numel() for own in block)
        * sum(nf4_bytes(own.weight.numel()) for own in block),
    }  # fmt: skip


def nf4_bytes(weights: int) -> int:
    """Half a byte for each, one for each 64, and four for each 256 of these."""
    return weights // 2 + weights // 64 + 4 * (weights // 64 // 256)


def main() -> None:
    found = measured(arguments())
    base = found["base"]
    title = f"a base of {base['bytes'] / GIB:.2f} GiB, {base['blocks'] / base['bytes']:.0%} of it in blocks"
    columns = ("streaming", "loaded, GiB", "trained", "with imports", "seconds of a step", "ratio", "last loss")
    show_table(title, columns, shown(found))
    for tokens in (512, 2048):
        parts = eight_billion(tokens)
        total = sum(size for part, size in parts.items() if not part.startswith("("))
        rows = [(part, f"{size / 1e9:.3f}") for part, size in {**parts, "on the device": total}.items()]
        show_table(f"computed, not measured: 8B in NF4, streamed, {tokens} tokens", ("part", "GB"), rows)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
