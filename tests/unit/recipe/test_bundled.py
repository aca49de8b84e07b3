"""The first sentence of a recipe's comment says what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from reflora_cli.recipe.bundled import bundled_list, comment_of, first_sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One sentence. Another one.", "One sentence"),
        ("LoRA (Hu et al. 2021, arXiv 2106.09685): rank 8. More.", "LoRA (Hu et al. 2021, arXiv 2106.09685): rank 8"),
        ("No end", "No end"),
        ("", ""),
    ],
)
def test_first_sentence(text: str, expected: str) -> None:
    assert first_sentence(text) == expected


def test_a_comment_ends_where_the_recipe_begins(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("# One line\n# and another.\nmodel: {}\n# not this\n", encoding="utf-8")
    assert comment_of(path) == "One line and another."


def test_every_bundled_recipe_has_one() -> None:
    assert all(own.about and len(own.about) < 300 for own in bundled_list())
