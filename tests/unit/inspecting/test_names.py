"""Depth and kind of a module, by its path."""

from __future__ import annotations

import pytest

from reflora_cli.inspecting.names import depth_of, kinds_of


@pytest.mark.parametrize(
    ("path", "depth"),
    [
        ("model.layers.12.self_attn.q_proj", 12),
        ("transformer.h.0.mlp.c_fc", 0),
        ("model.layers.3.mlp.experts.7.w1", 3),
        ("classifier.dense", None),
        ("encoder.layer2.0.dense", 0),
    ],
)
def test_depth_is_the_first_number(path: str, depth: int | None) -> None:
    assert depth_of(path) == depth


def test_kinds_are_as_short_as_tells_them_apart() -> None:
    block = ("attention.self.query", "attention.output.dense", "intermediate.dense", "output.dense", "experts.3.w1")
    paths = [f"deberta.encoder.layer.{depth}.{own}" for depth in (0, 11) for own in block]
    kinds = kinds_of([*paths, "pooler.dense"])
    short = ["query", "attention.output.dense", "intermediate.dense", "output.dense", "w1"]
    assert [kinds[path] for path in paths] == [*short, *short]
    assert kinds["pooler.dense"] == "pooler.dense"
