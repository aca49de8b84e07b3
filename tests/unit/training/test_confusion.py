"""The picture of confusions takes any names; warnings of the library are errors here."""

from __future__ import annotations

import struct

import pytest

from reflora_cli.training.confusion import draw_confusion


@pytest.mark.parametrize("names", [("$x^", "a\nb"), ("日本", "Ж, Ω"), ("x" * 300, "🙂"), ("\\alpha_", "%")])
def test_any_names(names: tuple[str, ...]) -> None:
    picture = draw_confusion([[3, 0], [1, 0]], names, f"{names[0]}, LoRA")
    width, height = struct.unpack(">II", picture[16:24])
    assert picture.startswith(b"\x89PNG")
    assert min(width, height) > 300


def test_more_classes_have_a_larger_picture() -> None:
    def width(classes: int) -> int:
        names = [f"n{index}" for index in range(classes)]
        picture = draw_confusion([[1] * classes for _ in names], names, "x")
        return int(struct.unpack(">I", picture[16:20])[0])

    assert width(2) < width(30)
