"""What loading, one training step and merging cost in memory, float32 against nf4, on a Llama of about 300M parameters.

    python -m tests.benchmarks.memory [--layers 24 --width 1024 --vocabulary 16000]

Every measurement runs in a process of its own and is the rise of its resident memory above what the imports take:
`own` is memory that the process holds for itself, the rest is the checkpoint's file, mapped, which the system takes
back when it needs the room (a dense float32 model stays in it). The step is a LoRA of rank 16 on all linear layers,
one row of 128 tokens. Merging is what making and writing the tensors takes beyond the loaded model.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import adapter_tensors, read_adapter, write_adapter, write_adapter_config
from reflora_cli.adapter_io.formats import adapter_config
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapter_io.tensor_files import ShardedWriter
from reflora_cli.console.output import show_table
from reflora_cli.data.encode_prompts import collate_prompts
from reflora_cli.merging.merge import SHARD_SIZE
from reflora_cli.merging.tensors import merged_tensors
from reflora_cli.methods.method import Method
from reflora_cli.methods.settings import Quantization
from reflora_cli.model.language import load_language_model
from reflora_cli.model.quantize import bits_per_weight
from reflora_cli.model.sources import find_source
from reflora_cli.objectives.language import LanguageLoss
from reflora_cli.recipe.sections import ModelSection
from tests.language_models import prompt_row
from tests.models import injected

METHOD = Method(name="lora", rank=16)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    for name, default in (("layers", 24), ("width", 1024), ("vocabulary", 16000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser.parse_args()


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> dict[str, int]:
    """Bytes resident now: in all, and of the process's own."""
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    found = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":", 1) for line in lines)
             if name in ("VmRSS", "RssAnon")}  # fmt: skip
    return {"all": found["VmRSS"], "own": found["RssAnon"]}


def rise(before: dict[str, int]) -> dict[str, int]:
    return {name: value - before[name] for name, value in resident().items()}


def make_base(chosen: argparse.Namespace, directory: Path) -> int:
    """A random model on disk; its bytes."""
    config = LlamaConfig(
        vocab_size=chosen.vocabulary, hidden_size=chosen.width, intermediate_size=11 * chosen.width // 4,
        num_hidden_layers=chosen.layers, num_attention_heads=16, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(directory, max_shard_size="400MB")
    AutoTokenizer.from_pretrained(find_source("builtin:tiny-llama", None).location).save_pretrained(directory)
    adapted = injected(model, METHOD, [], [], seed=0)
    write_adapter(directory / "adapter", adapter_tensors(model, adapted, []))
    write_adapter_config(
        directory / "adapter",
        adapter_config(model, adapted, METHOD, [], NamedBase(str(directory), None), "CAUSAL_LM"),
        {},
    )
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))


def train(kind: str, directory: Path, queue: Any) -> None:
    """Report the rise after loading, and after one step; bits per weight."""
    section = ModelSection(name=str(directory), quantization=Quantization(kind))
    warm_up(section)
    before = resident()
    base = load_language_model(section, None, torch.float32)
    loaded = rise(before)
    injected(base.model, METHOD, [], [], seed=0)
    base.model.train()
    LanguageLoss(base.model)(**collate_prompts([prompt_row(range(128), 64)], 0)).backward()
    queue.put({"loading": loaded, "step": rise(before), "bits": bits_per_weight(base.model)})


def warm_up(section: ModelSection) -> None:
    """Import all that loading needs, on a tiny model."""
    load_language_model(section.model_copy(update={"name": "builtin:tiny-llama"}), None, torch.float32)


def merge(kind: str, directory: Path, queue: Any) -> None:
    """Report the rise of merging over the loaded model."""
    section = ModelSection(name=str(directory), quantization=Quantization(kind))
    warm_up(section)
    base = load_language_model(section, None, torch.float32)
    adapted = load_adapter(base.model, read_adapter(directory / "adapter"), base.fresh)
    before = peak()
    tensors = merged_tensors(base.model, adapted, torch.float32)
    with tempfile.TemporaryDirectory(dir=directory) as output:
        ShardedWriter(Path(output), tensors.announced(), SHARD_SIZE).write(iter(tensors))
    queue.put({"merging": peak() - before})


def main() -> None:
    chosen = arguments()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:  # the model's maker takes its memory with it
            size = pool.apply(make_base, (chosen, Path(name)))
        for kind in ("none", "nf4"):
            figures[kind] = {}
            for measure in (train, merge):
                queue = context.Queue()
                process = context.Process(target=measure, args=(kind, Path(name), queue))
                process.start()
                figures[kind] |= queue.get()
                process.join()
    rows = [
        (kind, *(f"{own[key]['all'] / 2**20:.0f} ({own[key]['own'] / 2**20:.0f} own)" for key in ("loading", "step")),
         f"{own['merging'] / 2**20:.0f} ({own['merging'] / size:.0%})", f"{own['bits'] or 32:.2f}")
        for kind, own in figures.items()
    ]  # fmt: skip
    title = f"MiB above the imports; the checkpoint has {size / 2**20:.0f}"
    show_table(title, ("base", "loaded", "after one step", "peak of merging", "bits per linear weight"), rows)
    print(json.dumps({"checkpoint_bytes": size, **figures}))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
