"""What is shown when a run has ended."""

from __future__ import annotations

from pathlib import Path

from reflora_cli.cli.train import closing_facts


def test_every_split_is_shown_by_its_own_main_score(tmp_path: Path) -> None:
    """Free text has a loss, a task with candidates beside it an accuracy."""
    scores = {"instruct": {"loss": 2.5}, "questions": {"accuracy": 0.75, "cut": 0.0}}
    before = {"instruct": {"loss": 3.0}, "questions": {"accuracy": 0.25, "cut": 0.0}}
    results = {"scores": scores, "before": before, "selected_step": 6, "seconds": 1.0, "seconds_per_epoch": 0.5}
    facts = closing_facts({**results, "main_metric": "accuracy"}, str(tmp_path))
    assert facts["loss, instruct"] == "2.5000, 3.0000 before (step 6)"
    assert facts["accuracy, questions"] == "0.7500, 0.2500 before (step 6)"
    assert "before" not in closing_facts({**results, "before": None}, str(tmp_path))["loss, instruct"]
