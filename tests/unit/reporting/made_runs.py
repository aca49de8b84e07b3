"""Run directories written by hand, of which every score is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reflora_cli.recipe.files import dump_recipe, load_recipe

SMALLEST = "model: {name: builtin:tiny-llama}\ntask: {name: builtin/entailment}\ntrain: {epochs: 1}\n"
GIB = 2**30


@dataclass(frozen=True)
class Made:
    """What a run is to be. sets: overrides of the recipe. split: that which was scored."""

    method: str = "lora"
    seed: int = 0
    score: float = 0.5
    task: str = "builtin/entailment"
    metric: str = "accuracy"
    sets: Sequence[str] = ()
    fresh: Mapping[str, Any] | None = None
    base: str = "builtin:tiny-llama"
    base_hash: str = "b1"
    rows_hash: str = "r1"
    device: str = "cpu, x86_64"
    seconds: float = 10.0
    split: str = "validation"
    losses: Sequence[float] = (2.0, 1.0, 0.5)
    extra: Mapping[str, Any] = field(default_factory=dict)


def make_run(path: Path, made: Made) -> Path:
    """Write a finished run and return its directory."""
    path.mkdir(parents=True)
    (path / "smallest.yaml").write_text(SMALLEST, encoding="utf-8")
    overrides = [
        f"method.name={made.method}",
        f"train.seed={made.seed}",
        f"task.name={made.task}",
        f"model.name={made.base}",
    ]
    recipe = load_recipe(str(path / "smallest.yaml"), [*overrides, *made.sets])
    (path / "smallest.yaml").unlink()
    (path / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    scores = {made.split: {made.metric: made.score, "loss": 1 - made.score}}
    results = {
        "run": str(path),
        "task": made.task,
        "base": made.base,
        "method": recipe.method.label,
        "seed": made.seed,
        "main_metric": made.metric,
        "settings": {},
        "selected_step": 30,
        "scores": scores,
        "before": None,
        "history": [],
        "steps": 30,
        "seconds": made.seconds,
        "seconds_per_epoch": made.seconds / 2,
        "peak_memory_bytes": GIB,
        "trained_parameters": 1000,
        "dtype": "float32",
        "quantization": "none",
        "processes": 1,
        **made.extra,
    }
    environment = {
        "reflora": "0.1.0",
        "packages": {"torch": "2.7.0", "transformers": "5.1.0"},
        "device": made.device,
        "threads": 1,
        "base": {"name": made.base, "sha256": made.base_hash, "commit": None},
        "data": {"train": {"rows": 100, "sha256": "t"}, made.split: {"rows": 60, "sha256": made.rows_hash}},
    }
    (path / "results.json").write_text(json.dumps(results), encoding="utf-8")
    (path / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log_of(made)), encoding="utf-8")
    if made.fresh is not None:
        (path / "fresh.json").write_text(json.dumps(made.fresh), encoding="utf-8")
    return path


def log_of(made: Made) -> list[dict[str, Any]]:
    """Return the lines of a run's log: a step for each loss, and two evaluations."""
    steps = [
        {
            "event": "step",
            "step": 10 * place,
            "loss": loss,
            "seconds": made.seconds * place / len(made.losses),
            "learning_rate": 1e-3,
        }
        for place, loss in enumerate(made.losses, start=1)
    ]
    evaluations = [
        {"event": "evaluation", "step": step, "split": made.split, made.metric: made.score * step / 30}
        for step in (15, 30)
    ]
    return [*steps, {"event": "health", "step": 10, "modules": {}}, *evaluations]


def make_runs(root: Path, scores: Mapping[str, Sequence[float]], **more: Any) -> Path:
    """Write a run for each score of each method, seeds from 0 on, and return their directory."""
    for method, own in scores.items():
        for seed, score in enumerate(own):
            make_run(root / f"{method}-{seed}", Made(method=method, seed=seed, score=score, **more))
    return root


def make_comparison(
    root: Path, rates: Mapping[str, Mapping[float, float]], scores: Mapping[str, Sequence[float]]
) -> Path:
    """Write a comparison that tuned learning rates. rates: the score of each rate by method; scores: those on fresh
    rows, of the best rate.
    """
    root.mkdir(parents=True, exist_ok=True)
    tried = sorted({rate for own in rates.values() for rate in own})
    plan = {"baseline": "lora", "tune": {"train.learning_rate": tried, "seeds": [100], "budget": len(tried)}}
    (root / "plan.yaml").write_text(json.dumps(plan), encoding="utf-8")
    for method, own in rates.items():
        for rate, score in own.items():
            sets = [f"train.learning_rate={rate}"]
            make_run(root / "tuning" / f"{method}-{rate}", Made(method, 100, score, sets=sets))
        chosen = max(own, key=lambda rate: own[rate])
        for seed, score in enumerate(scores[method]):
            fresh = {"split": "test", "scores": {"test": {"accuracy": score}}}
            made = Made(method, seed, own[chosen], sets=[f"train.learning_rate={chosen}"], fresh=fresh)
            make_run(root / "runs" / f"{method}-{seed}", made)
    return root
