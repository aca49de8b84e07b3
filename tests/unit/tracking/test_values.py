"""Lines of the log as trackers show them."""

from __future__ import annotations

from reflora_cli.tracking.values import tracked_values


def test_every_number_has_the_name_of_its_place() -> None:
    step = {"event": "step", "step": 4, "loss": 0.5, "gradient_norm": None, "epoch": 1.0}
    assert tracked_values(step) == {"train/loss": 0.5, "train/epoch": 1.0}
    evaluation = {"event": "evaluation", "step": 4, "split": "validation", "accuracy": 1.0}
    assert tracked_values(evaluation) == {"eval/validation/accuracy": 1.0}
    health = {"event": "health", "step": 4, "modules": {"q": {"ratio": 0.1, "condition": None}}, "plain": ["q"]}
    assert tracked_values(health) == {"health/q/ratio": 0.1, "health/plain": 1}


def test_lines_of_text_are_not_for_trackers() -> None:
    assert tracked_values({"event": "sample", "step": 4, "split": "validation", "answer": "a cup"}) == {}
    assert tracked_values({"event": "spike", "step": 4, "loss": 9.0}) == {}
