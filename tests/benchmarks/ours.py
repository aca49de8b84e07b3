"""A setting as a recipe, run by reflora."""

from __future__ import annotations

import json
from pathlib import Path

from reflora_cli.console.reporter import SilentReporter
from reflora_cli.recipe.sections import Recipe
from reflora_cli.training.train import train
from tests.benchmarks.setting import Outcome, Setting


def recipe_of(setting: Setting) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"name": setting.base, "dtype": "float32"},
            "method": {
                "name": setting.method,
                "rank": setting.rank,
                "alpha": setting.rank,
                "refactor": {"warmup_steps": setting.refactor_warmup},
            },
            "task": {
                "name": setting.task,
                "data": setting.data,
                "max_length": setting.max_length,
                "max_train_rows": setting.train_rows,
            },
            "train": {
                "epochs": setting.epochs,
                "batch_size": setting.batch_size,
                "micro_batch_size": setting.batch_size,
                "learning_rate": setting.learning_rate,
                "seed": setting.seed,
                "group_by_length": setting.grouped,
                "trim_last_block": setting.trimmed,
                "packing": setting.packed,
                "checkpoint_every": 0,
            },
            "eval": {"select": "last"},
        }
    )


def run(setting: Setting, directory: Path) -> Outcome:
    """Train and score with the reflora of this checkout."""
    results = train(recipe_of(setting), directory, resume=False, reporter=SilentReporter())
    records = [json.loads(line) for line in (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return Outcome(
        tool="reflora",
        scores=next(iter(results["scores"].values())),
        losses={record["step"]: record["loss"] for record in records if record["event"] == "step"},
        seconds_per_epoch=results["seconds_per_epoch"],
        trained_parameters=results["trained_parameters"],
    )
