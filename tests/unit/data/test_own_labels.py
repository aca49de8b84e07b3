"""Labels found in rows: their names, order, counts and weights; and rows that hold none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from reflora_cli.data.own import own_examples
from reflora_cli.data.own_labels import Found, find_labels, in_words
from reflora_cli.data.read import read_file, table_of
from reflora_cli.ground.errors import InputError
from reflora_cli.tasks.base import OwnLabels
from reflora_cli.tasks.own import own_task


def found(kind: str, cells: Sequence[Any], given: Sequence[str] | None = None, own: OwnLabels | None = None) -> Found:
    own = own or OwnLabels(("label",))
    table = table_of([{"text": "x", "label": cell} for cell in cells], "x.jsonl", ("text", "label"))
    return find_labels(table, own_task(kind, kind, ["text"], (), own, None), own, given)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["b", "a", "b", " a "], {"a": 2, "b": 2}),
        ([10, 9, 10], {"9": 1, "10": 2}),
        (["10", "9", "10"], {"9": 1, "10": 2}),
        ([1.0, 2.0, 1.5], {"1": 1, "1.5": 1, "2": 1}),
        ([True, False, True], {"false": 1, "true": 2}),
        (["10", "9", "x"], {"10": 1, "9": 1, "x": 1}),
        (["inf", "nan ?", "1"], {"1": 1, "inf": 1, "nan ?": 1}),
        (["C", "C++", "C#"], {"C": 1, "C#": 1, "C++": 1}),
    ],
)
def test_classes_in_their_order(cells: Sequence[Any], expected: dict[str, int]) -> None:
    assert list(found("classification", cells).counts.items()) == list(expected.items())


def test_given_labels_keep_their_order() -> None:
    assert list(found("classification", ["a", "b", "b"], ["b", "a"]).counts) == ["b", "a"]


@pytest.mark.parametrize(
    ("cells", "separator"),
    [(["a|b", "", "b"], "|"), (["a; b", "", "b"], ";"), (["a,b", "", "b"], ","), ([["a", "b"], [], ["b"]], None)],
)
def test_several_labels_in_a_cell(cells: Sequence[Any], separator: str | None) -> None:
    labels = found("multilabel", cells)
    assert (labels.counts, labels.separator) == ({"a": 1, "b": 2}, separator)
    own = OwnLabels(("label",), separator)
    table = table_of([{"text": "x", "label": cell} for cell in cells], "x.jsonl", ("text", "label"))
    examples = own_examples(table, own_task("multilabel", "m", ["text"], ("a", "b"), own, None), own)
    assert [example.label for example in examples] == [(1.0, 1.0), (0.0, 0.0), (0.0, 1.0)]


def test_a_separator_that_is_given_is_the_only_one() -> None:
    labels = found("multilabel", ["a, b/c", "c"], own=OwnLabels(("label",), "/"))
    assert labels.counts == {"a, b": 1, "c": 2}


def test_balanced_weights_are_scikit_learn_s() -> None:
    cells = ["a"] * 6 + ["b"] * 3 + ["c"]
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(cells))
    assert found("classification", cells).weights(several=False) == pytest.approx(expected)


def test_rows_with_a_rare_label_weigh_as_much_as_those_without() -> None:
    labels = found("multilabel", [["a"], ["a"], ["a", "b"], []])
    assert labels.weights(several=True) == pytest.approx([1 / 3, 3.0])


@pytest.mark.parametrize("cell", [None, "", "  ", float("nan"), "NaN"])
def test_no_label_is_named_with_its_row(cell: Any) -> None:
    with pytest.raises(InputError, match="row 2") as caught:
        found("classification", ["a", cell, "b"])
    assert "is missing" in str(caught.value)


def test_many_labels_are_shown_by_the_most_and_least_frequent() -> None:
    shown = in_words({f"n{count}": count for count in range(1, 31)})
    assert shown.startswith("30: n30 (30), n29 (29)")
    assert shown.endswith("n2 (2), n1 (1)")
    assert in_words({"b": 1, "a": 2000}) == "2: b (1), a (2,000)"


def test_a_list_within_a_list_is_refused_without_advice_of_the_kind_that_it_has() -> None:
    with pytest.raises(InputError, match="is not a label") as caught:
        found("multilabel", [["a"], [["a"]], ["b"]])
    assert "row 2" in str(caught.value)
    assert "task.kind" not in str(caught.value)
    with pytest.raises(InputError, match=r"set task\.kind=multilabel"):
        found("classification", ["a", ["a"], "b"])


def test_a_label_of_two_lines_is_shown_in_one() -> None:
    assert in_words({"a\nb": 1, "é": 2}) == "2: 'a\\nb' (1), é (2)"


def test_a_column_of_a_csv_may_be_named_with_the_blank_that_its_header_has(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text ,label\na,b\n", encoding="utf-8")
    assert read_file(path, ("text ", "label"), None).columns == {"text ": ["a"], "label": ["b"]}
