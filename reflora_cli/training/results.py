"""Put together `results.json`: all that a table of many runs needs, without their other files."""

from __future__ import annotations

from collections import Counter
from typing import Any

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.model.attention import attention_of
from reflora_cli.model.base import parameter_count
from reflora_cli.model.quantize import bits_per_weight, quantized_kind
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.environment import peak_memory
from reflora_cli.runs.resumed import resumed_steps
from reflora_cli.training.checkpoint import Evaluation, Progress
from reflora_cli.training.job import Job
from reflora_cli.training.session import Session


def summarize(session: Session) -> dict[str, Any]:
    """Return what `results.json` holds."""
    job, recipe = session.job, session.job.recipe
    return {
        "run": str(session.run.path),
        "task": job.task.name,
        "base": recipe.model.name,
        "method": recipe.method.label,
        "seed": recipe.train.seed,
        "main_metric": job.objective.main_metric,
        "settings": job.objective.settings(),
        "dropped_rows": job.rows.dropped,
        **outcome(session),
        **times(job, session.progress),
        **compilation(session),
        "peak_memory_bytes": peak_memory(job.compute.device),
        **sizes(job),
        "processes": job.compute.processes,
        "resumed": len(resumed_steps(session.run)),
        **choices(recipe),
        "targets": targets(recipe, job.adapted),
        **rates(recipe),
        **identities(job.environment),
    }


def selected_evaluation(session: Session) -> Evaluation | None:
    """Return the evaluation of the adapter that was kept; None if nothing was evaluated."""
    progress = session.progress
    wanted = progress.best_step if session.job.recipe.eval.select == "best" else progress.step
    return next((entry for entry in progress.history if entry["step"] == wanted), None)


def outcome(session: Session) -> dict[str, Any]:
    """Return scores, those of the kept adapter and all others, and the losses of the first and last logged steps."""
    progress, selected = session.progress, selected_evaluation(session)
    return {
        "selected": session.job.recipe.eval.select,
        "selected_step": selected["step"] if selected else progress.step,
        "scores": selected["scores"] if selected else None,
        "before": progress.before,
        "history": progress.history,
        **({"report": progress.report} if progress.report else {}),
        "steps": progress.step,
        "first_loss": progress.first_loss,
        "last_loss": progress.last_loss,
    }


def times(job: Job, progress: Progress) -> dict[str, Any]:
    """Return seconds and speeds. `seconds` are those of steps alone, over all parts of an interrupted run."""
    epochs, seconds = progress.step / job.sampler.steps_per_epoch, progress.seconds
    tokens, durations = tokens_seen(job, progress.step), progress.times
    return {
        "epochs": epochs,
        "seconds": seconds,
        "seconds_per_epoch": seconds / epochs,
        "evaluation_seconds": progress.evaluation_seconds,
        "step_seconds": {
            "median": durations.quantile(0.5),
            "p5": durations.quantile(0.05),
            "p95": durations.quantile(0.95),
        },
        "tokens": tokens,
        "tokens_per_second": tokens / max(seconds, 1e-9),
    }


def compilation(session: Session) -> dict[str, Any]:
    """Return whether blocks were compiled, how, and for how long; nothing where a run's recipe does not ask for it."""
    asked = session.job.recipe.train.compile
    if asked is False:
        return {}
    failed = {"compile": False, "not_compiled": session.not_compiled}
    return {
        **(failed if session.not_compiled else {"compile": asked}),
        "compile_seconds": session.progress.compile_seconds,
    }


def tokens_seen(job: Job, steps: int) -> int:
    """Return the tokens of all rows of the first `steps` steps, over all processes, without padding."""
    lengths = [len(row.input_ids) for row in job.rows.training]
    whole, rest = divmod(steps, job.sampler.steps_per_epoch)
    last = range(steps - rest, steps)
    return whole * sum(lengths) + sum(lengths[row] for step in last for row in job.sampler.step_rows(step))


def sizes(job: Job) -> dict[str, Any]:
    """Return numbers of parameters, and the precision of the base."""
    trained, total = sum(p.numel() for p in job.adapted.parameters.values()), parameter_count(job.base.model)
    return {
        "trained_parameters": trained,
        "trained_by_kind": trained_by_kind(job.adapted),
        "total_parameters": total,
        "trained_share": trained / total,
        "dtype": job.compute.dtype_name,
        "quantization": quantized_kind(job.base.model),
        "attention": attention_of(job.base.model),
        "bits_per_weight": bits_per_weight(job.base.model),
    }


def trained_by_kind(adapted: Adapted) -> dict[str, int]:
    """Return the numbers of trained parameters: of adapters by their names there (A, B, magnitude, ...), `base` for
    those of the base that are trained in place, and `head` for modules trained whole. They are all of them.
    """
    counts: Counter[str] = Counter()
    for layer in adapted.layers.values():
        for key in layer.roles():
            counts[key] += layer.get_parameter(key).numel()
    counts["base"] += sum(own.numel() for own in adapted.in_place.values())
    counts["head"] += sum(own.numel() for own in adapted.others.values())
    return {kind: count for kind, count in counts.items() if count}


def choices(recipe: Recipe) -> dict[str, Any]:
    """Return what the method is, each choice with its fields."""
    method = recipe.method
    return {
        "preset": method.name,
        "rank": method.rank,
        "alpha": method.alpha,
        "scaling": str(method.scaling),
        "dropout": method.dropout,
        "layer": method.layer.model_dump(mode="json"),
        "start": method.start.model_dump(mode="json"),
        "update": method.update.model_dump(mode="json"),
        "after": method.after,
    }


def targets(recipe: Recipe, adapted: Adapted) -> dict[str, Any]:
    """Return the targets as given, how many modules each of them matched, and how many modules have an adapter."""
    given = recipe.method.model_dump(mode="json")["targets"]
    return {"given": given, "matched": dict(adapted.matches), "adapted": len(adapted.layers)}


def rates(recipe: Recipe) -> dict[str, Any]:
    """Return how a step is taken. `head_learning_rate` is the one that was used, whether given or not."""
    train, method = recipe.train, recipe.method
    head = train.learning_rate if train.head_learning_rate is None else train.head_learning_rate
    return {
        "optimizer": str(train.optimizer),
        "momentum": train.momentum,
        "learning_rate": train.learning_rate,
        "head_learning_rate": head,
        "lr_ratio": method.lr_ratio,
        "schedule": str(train.schedule),
        "warmup_steps": train.warmup_steps,
        "weight_decay": train.weight_decay,
        "max_grad_norm": train.max_grad_norm,
        "batch_size": train.batch_size,
        "micro_batch_size": train.micro_batch_size,
        "max_length": recipe.task.max_length,
    }


def identities(environment: dict[str, Any]) -> dict[str, Any]:
    """Return which base and data these were, and on what the last part of the run ran."""
    base = environment["base"]
    return {
        "base_revision": base["revision"],
        "base_commit": base["commit"],
        "base_sha256": base["sha256"],
        "data": environment["data"],
        "device": environment["device"],
        "threads": environment["threads"],
        "versions": {
            "reflora": environment["reflora"],
            "python": environment["python"],
            **environment["packages"],
        },
    }
