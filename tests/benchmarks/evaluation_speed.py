"""How fast answers are scored: `choices` and batched `llm-adapters` against the reference's way, interleaved.

    python -m tests.benchmarks.evaluation_speed RUN [--task commonsense/boolq --data DIR --rows 96 --batch 32
        --reference 8]

The reference's way is that of the LLM-Adapters evaluation: one row at a time, four beams, 32 new tokens, no attention
mask, on the merged model; --reference is the number of rows that it reads. RUN is a run that `reflora train` wrote.
Prints seconds per row by rounds, ratios of medians, and the accuracies side by side. On a CPU they are the seconds that
the process had a CPU, which other work on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reflora_cli.console.output import show_table
from reflora_cli.data.load import load_prompts
from reflora_cli.merging.tensors import plain_modules
from reflora_cli.objectives.choices import Choices
from reflora_cli.objectives.generation import Generation
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.recipe.files import load_recipe
from reflora_cli.runs.directory import open_run
from reflora_cli.runs.restore import Restored, restore
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.examples import PromptExample
from reflora_cli.tasks.registry import find_task

ROUNDS = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.evaluation_speed", description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--task", default=None)
    parser.add_argument("--data", default=None)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--reference", type=int, default=None)
    return parser.parse_args()


def batched(scorer: Scorer, task: PromptTask, size: int) -> Callable[[list[PromptExample]], list[bool]]:
    def score(examples: list[PromptExample]) -> list[bool]:
        found: list[bool] = []
        for batch in scorer.batches(examples, size):
            found += [own.correct for own in scorer.predict(task, [examples[index] for index in batch])]
        return found

    return score


def reference(restored: Restored, task: PromptTask) -> Callable[[list[PromptExample]], list[bool]]:
    """One row at a time through plain transformers, on a model with the adapter merged in."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    assert restored.adapted is not None
    model: Any = AutoModelForCausalLM.from_pretrained(restored.base.source.location, dtype=restored.compute.dtype)
    plain = plain_modules(restored.base.model, restored.adapted, restored.compute.dtype)
    for name, make in plain.items():
        model.set_submodule(name, make())
    model.to(restored.compute.device).eval()
    tokenizer = restored.base.tokenizer
    room = model.config.max_position_embeddings - 32

    @torch.no_grad()
    def score(examples: list[PromptExample]) -> list[bool]:
        found: list[bool] = []
        for example in examples:
            ids = tokenizer(example.generation_prompt, return_tensors="pt", verbose=False)["input_ids"][:, -room:]
            config = GenerationConfig(num_beams=4, max_new_tokens=32, pad_token_id=0, eos_token_id=2, do_sample=False)
            output = model.generate(input_ids=ids.to(model.device), generation_config=config)
            text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
            found.append(task.parse(text, example.labels) == example.label)
        return found

    return score


def main() -> None:
    chosen = arguments()
    run = open_run(chosen.run)
    wanted = {"task.name": chosen.task, "task.data": chosen.data}
    recipe = load_recipe(str(run.recipe), [f"{key}={value}" for key, value in wanted.items() if value])
    restored = restore(recipe, run.adapter)
    task = find_task(recipe.task.name)
    assert isinstance(task, PromptTask)
    examples = load_prompts(task, recipe.task.data, task.evaluation[0], chosen.rows)
    base, compute = restored.base, restored.compute
    ways = {
        "reference: batch 1, 4 beams": reference(restored, task),
        f"llm-adapters, batch {chosen.batch}, greedy": batched(Generation(base, compute, 1, 32), task, chosen.batch),
        f"llm-adapters, batch {chosen.batch}, 4 beams": batched(Generation(base, compute, 4, 32), task, chosen.batch),
        f"choices, batch {chosen.batch}": batched(Choices(base, compute), task, chosen.batch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    accuracy: dict[str, float] = {}
    clock = time.process_time if compute.device.type == "cpu" else time.perf_counter
    for _ in range(ROUNDS):
        for name, way in ways.items():
            read = examples[: chosen.reference] if name.startswith("reference") else examples
            begin = clock()
            correct = way(read)
            seconds[name].append((clock() - begin) / len(read))
            accuracy[name] = sum(correct) / len(correct)
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    slowest = next(iter(medians.values()))
    rows = [
        (name, f"{1e3 * medians[name]:.2f}", f"{1e3 * min(own):.2f} to {1e3 * max(own):.2f}",
         f"{slowest / medians[name]:.1f}", f"{accuracy[name]:.4f}")
        for name, own in seconds.items()
    ]  # fmt: skip
    show_table(f"{task.name}, {len(examples)} rows", ("way", "ms per row", "spread", "times faster", "accuracy"), rows)
    print(json.dumps({"seconds_per_row": seconds, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
