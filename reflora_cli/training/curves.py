"""Draw `curves.png`: loss, main score and learning rate against steps."""

from __future__ import annotations

import io
import json
from pathlib import Path


def draw_curves(metrics: Path, score: str, title: str) -> bytes:
    """Return a run's `metrics.jsonl` as a PNG image; `score` is the name of the main score."""
    from matplotlib.figure import Figure

    records = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [record for record in records if record["event"] == "step"]
    evaluations = [record for record in records if record["event"] == "evaluation" and score in record]
    figure = Figure(figsize=(8, 8), layout="constrained")
    loss, metric, rate = figure.subplots(3, 1, sharex=True)
    has_loss = all("loss" in record for record in evaluations)
    loss.plot([record["step"] for record in steps], [record["loss"] for record in steps], label="training")
    for split in dict.fromkeys(record["split"] for record in evaluations):
        own = [record for record in evaluations if record["split"] == split]
        if has_loss:
            loss.plot([record["step"] for record in own], [record["loss"] for record in own], "o--", label=split)
        metric.plot([record["step"] for record in own], [record[score] for record in own], "o-", label=split)
    rate.plot([record["step"] for record in steps], [record["learning_rate"] for record in steps])
    for axes, label in ((loss, "loss"), (metric, score), (rate, "learning rate")):
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    rate.set_xlabel("step")
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()
