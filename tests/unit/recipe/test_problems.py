"""Every way in which a recipe can be wrong, and what its message says: what, where, found, expected, remedy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from reflora_cli.ground.errors import InputError
from reflora_cli.recipe.files import load_recipe
from tests.unit.recipe_texts import GOOD, load, put

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe and return its path."""
    return partial(put, tmp_path)


# Errors in a file: what is added to GOOD or replaces a line of it, and what the message says

FILES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "unknown key": ("rank: 8", "rnak: 8", ("unknown key 'rnak'", "x.yaml, line 5, method.rnak", "mean 'rank'")),
    "hyphen": ("epochs: 3", "batch-size: 3", ("'batch-size'", "line 9, train.batch-size", "'batch_size'")),
    "key of another section": ("model:\n", "rank: 4\nmodel:\n", ("'rank'", "line 1, rank", "mean 'method.rank'?")),
    "misspelt key of another section": ("  rank: 8\n", "  learning_rat: 1\n", ("mean 'train.learning_rate'?",)),
    "key of two sections": ("  rank: 8\n", "  batch_size: 8\n", ("mean 'train.batch_size' or 'eval.batch_size'?",)),
    "name from PEFT": ("rank: 8", "r: 8", ("unknown key 'r'", "did you mean 'method.rank'?")),
    "name from transformers": ("epochs: 3", "lr: 1", ("unknown key 'lr'", "did you mean 'train.learning_rate'?")),
    "name from others": ("epochs: 3", "torch_compile: true", ("did you mean 'train.compile'?",)),
    "begin of a value": (
        "some/model",
        "some/model\n  attention: flash",
        ("did you mean 'flash_attention_2' or 'flash_attention_3'?",),
    ),
    "unknown section": ("model:\n", "weights: {}\nmodel:\n", ("'weights'", "known: eval, method, model, task")),
    "key of a section": ("model:\n", "optimiser: {}\nmodel:\n", ("'optimiser'", "did you mean 'train.optimizer'?")),
    "whole number": ("rank: 8", "rank: eight", ("method.rank", "'eight' (text)", "expected: a whole number >= 1")),
    "quoted": ("rank: 8", "rank: '8'", ("found: '8' (text)", "expected: a whole number >= 1")),
    "fraction": ("rank: 8", "rank: 8.5", ("found: 8.5 (number)", "expected: a whole number >= 1")),
    "boolean": (
        "epochs: 3",
        "epochs: yes",
        ("line 9, train.epochs", "found: true (boolean)", "a number > 0 and <= 1e+09 or null"),
    ),
    "list": ("rank: 8", "rank: [8]", ("found: [8] (list)",)),
    "null": ("rank: 8", "rank:", ("line 5, method.rank", "found: null", "expected: a whole number >= 1")),
    "date": ("  name: some/model", "  name: 2024-01-02", ("2024-01-02 (date)", "expected: text", "in quotes")),
    "number for text": ("some/model", "some/model\n  revision: 1234567", ("1234567 (whole number)", "quotes")),
    "not a number": ("epochs: 3", "epochs: .nan", ("found: nan (number)", "expected: a finite number > 0")),
    "infinite": ("epochs: 3", "epochs: 3\n  weight_decay: .inf", ("line 10", "found: inf", "a finite number >= 0")),
    "below the bound": ("rank: 8", "rank: 0", ("found: 0 (whole number)", "expected: a whole number >= 1")),
    "between bounds": ("rank: 8", "dropout: 1", ("found: 1 (whole number)", "expected: a number >= 0 and < 1")),
    "enum": ("epochs: 3", "schedule: liner", ("'liner' (text)", "one of linear, cosine, constant", "mean 'linear'")),
    "enum, nothing near": ("rank: 8", "layer: xyz", ("expected: one of lora, dora",)),
    "preset": ("name: reflora", "name: reflroa", ("line 4, method.name", "one of lora, rslora", "mean 'reflora'")),
    "one target": ("rank: 8", "targets: q_proj", ("a list of text or all-linear", "in brackets: [q_proj]")),
    "misspelt all-linear": ("rank: 8", "targets: all-liner", ("did you mean 'all-linear'?",)),
    "wrong target": ("rank: 8", "targets: [q, 3]", ("line 5, method.targets", "['q', 3] (list)", "a list of text")),
    "no target": ("rank: 8", "targets: []", ("targets is empty", "line 5, method.targets", "all-linear")),
    "fixed point": ("rank: 8", "refactor: {warmup_steps: 0}", ("B = 0", "line 5, method.refactor.warmup_steps")),
    "deep key": ("rank: 8", "refactor:\n    warmup: 3", ("line 6, method.refactor.warmup", "'warmup_steps'")),
    "missing section": ("train:\n  epochs: 3\n", "", ("train is missing", "a section with epochs, steps")),
    "missing key": ("  name: some/model", "  dtype: auto", ("model.name is missing", "expected: text")),
    "empty section": ("  name: glue/cola\n", "", ("wrong value for task", "line 6, task", "found: null", "name, data")),
    "section is text": ("method:\n  name: reflora\n  rank: 8\n", "method: lora\n", ("line 3, method", "'lora' (text)")),
    "how long": ("epochs: 3", "seed: 3", ("does not say how long", "line 8, train.epochs", "give one of")),
    "best of none": ("model:\n", "eval: {every: never}\nmodel:\n", ("line 1, eval.every", "set eval.select=last")),
    "task": ("glue/cola", "glue/colla", ("no such task", "line 7, task.name", "'glue/colla'", "mean 'glue/cola'")),
    "repeated key": ("rank: 8", "rank: 8\n  rank: 9", ("'rank' stands twice", "line 6")),
    "number as key": ("rank: 8", "3: 8", ("a key must be plain text", "line 5", "'3'")),
    "list as key": ("rank: 8", "[a]: 8", ("a key must be plain text", "line 5")),
    "code": ("rank: 8", "rank: !!python/object:os.system {}", ("not readable YAML", "line 5", "python/object")),
    "set": ("rank: 8", "targets: !!set {a, b}", ("line 5", "no sets")),
    "wrong tag": ("rank: 8", "rank: !!bool perhaps", ("line 5", "'perhaps' cannot be read as bool")),
    "no such day": ("rank: 8", "rank: 2024-13-01", ("line 5", "'2024-13-01' cannot be read as timestamp")),
    "huge number": ("rank: 8", "rank: 0x" + "f" * 5000, ("line 5", "cannot be read as int")),
    "half a character": ("some/model", r'"\ud800"', ("line 2", "cannot be read as str")),
    "not closed": ("rank: 8", "rank: [8", ("not readable YAML", "line 6, column", "expected ',' or ']'")),
    "tab": ("  rank: 8", "\trank: 8", ("not readable YAML", "line 5, column 1", "'\\t'")),
    "unknown alias": ("rank: 8", "rank: *eight", ("undefined alias", "line 5")),
    "alias of itself": ("rank: 8", "targets: &a [*a]", ("alias contains itself", "line 5")),
    "unknown kind": (
        "rank: 8",
        "update: reflroa",
        (
            "wrong value for method.update\n",
            "line 5, method.update\n",
            "'reflroa' (text)",
            "one of plain, reflora, reflora-s, scaled-gd, lora-rite, balanced, lora-pro, lora-fa, preclora",
            "mean 'reflora'",
        ),
    ),
    "unknown kind in a mapping": (
        "rank: 8",
        "update:\n    interval: 3\n    kind: scaled",
        ("wrong value for method.update\n", "line 7, method.update\n", "'scaled' (text)", "mean 'scaled-gd'"),
    ),
    "kind of another type": ("rank: 8", "update: {kind: 3}", ("3 (whole number)", "one of plain, reflora")),
    "choice of another type": ("rank: 8", "update: 3", ("line 5, method.update\n", "3 (whole number)", "one of plain")),
    "no choice": ("rank: 8", "update:", ("line 5, method.update\n", "found: null", "expected: one of plain")),
    "key of a choice": (
        "rank: 8",
        "update:\n    warmup_step: 3",
        ("unknown key 'warmup_step'", "line 6, method.update.warmup_step\n", "mean 'method.update.warmup_steps'?"),
    ),
    "key of other kinds": (
        "rank: 8",
        "update: {kind: reflora-s, damping: 0.1}",
        (
            "unknown key 'damping'",
            "line 5, method.update.damping",
            "method.update is reflora-s",
            "kinds that have it: reflora, scaled-gd, lora-rite, lora-pro",
        ),
    ),
    "key of other kinds, the preset's kind": (
        "name: reflora",
        "name: lora\n  update: {warmup_steps: 3}",
        ("line 5, method.update.warmup_steps", "method.update is plain", "reflora, reflora-s, scaled-gd"),
    ),
    "key of a choice at another place": (
        "rank: 8",
        "dampin: 3",
        ("unknown key 'dampin'", "mean 'method.update.damping'?"),
    ),
    "value in a choice": (
        "rank: 8",
        "update:\n    interval: 0",
        ("wrong value for method.update.interval", "line 6, method.update.interval", "a whole number >= 1"),
    ),
    "union in a choice": (
        "rank: 8",
        "update:\n    damping: atuo",
        ("method.update.damping", "line 6", "'atuo' (text)", "a number >= 0 and < 1 or auto", "mean 'auto'"),
    ),
    "not finite in a choice": ("rank: 8", "update: {damping: .nan}", ("found: nan (number)", "a finite number >= 0")),
    "value in refactor": (
        "rank: 8",
        "refactor: {interval: 0}",
        ("wrong value for method.refactor.interval", "line 5, method.refactor.interval", "a whole number >= 1"),
    ),
    "refactor under a preset without a rule": (
        "name: reflora",
        "name: lora\n  refactor: {interval: 0}",
        ("wrong value for method.refactor.interval", "line 5"),
    ),
    "start under its older name": (
        "rank: 8",
        "init: gausian",
        (
            "wrong value for method.init",
            "line 5, method.init",
            "one of default, gaussian, pissa, eva, milora, olora, orthogonal, loftq, lq-lora, nora, corda, lora-ga, "
            "lora-one",
            "mean 'gaussian'",
        ),
    ),
    "both names of the start": (
        "rank: 8",
        "init: gaussian\n  start: default",
        ("init is another name of start", "line 5, method.init and ", "line 6, method.start", "remove init"),
    ),
    "said twice": (
        "rank: 8",
        "update: {warmup_steps: 3}\n  refactor:\n    warmup_steps: 4",
        (
            "warmup_steps is given twice: 3 for the update rule, and 4 in refactor",
            "line 5, method.update.warmup_steps and ",
            "line 7, method.refactor.warmup_steps",
            "remove one of them",
        ),
    ),
    "fixed point in a choice": (
        "rank: 8",
        "update: {warmup_steps: 0}",
        ("B = 0", "line 5, method.update.warmup_steps", "raise warmup_steps to at least 1"),
    ),
    "mapping in itself": ("rank: 8", "refactor: &a {b: *a}", ("alias contains itself", "line 5")),
    "merged with itself": ("rank: 8", "refactor: &a {<<: *a}", ("aliases refer to each other",)),
    "two documents": ("model:\n", "a: 1\n---\nmodel:\n", ("not readable YAML", "line 2")),
    "control character": ("some/model", "some\0model", ("not text", "U+0000")),
    "extends nothing": ("model:\n", "extends: glue/coal\nmodel:\n", ("line 1", "'glue/coal'", "mean 'glue/cola'")),
    "extends a list": ("model:\n", "extends: [a]\nmodel:\n", ("extends names no recipe", "line 1", "['a'] (list)")),
    "extends itself": ("model:\n", "extends: x.yaml\nmodel:\n", ("in a circle", "x.yaml -> ")),
}


@pytest.mark.parametrize("case", FILES)
def test_wrong_file(case: str, write: Write) -> None:
    old, new, expected = FILES[case]
    assert old in GOOD
    with pytest.raises(InputError) as caught:
        load(write(GOOD.replace(old, new, 1)))
    message = str(caught.value)
    assert not [words for words in expected if words not in message], message
    assert len(message) < 1500


def test_all_problems_are_told_at_once_and_in_the_order_of_the_sections(write: Write) -> None:
    text = GOOD.replace("rank: 8", "rank: 0").replace("epochs: 3", "epochs: 0").replace("glue/cola", "cola")
    with pytest.raises(InputError) as caught:
        load(write(text), "eval.every=0", "model.nmae=x")
    assert [problem.what for problem in caught.value.problems] == [
        "unknown key 'nmae'",
        "wrong value for method.rank",
        "wrong value for train.epochs",
        "wrong value for eval.every",
        "there is no such task",
    ]


def test_quotes_are_not_advised_where_a_number_is_wrong_as_such(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        load(write(GOOD), "task.validation=-1")
    assert [(problem.expected, problem.remedy) for problem in caught.value.problems] == [
        ("a whole number >= 1 or text or null", "")
    ]


def test_quotes_are_advised_only_where_any_text_will_do(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        load(write(GOOD), "method.targets=3", "eval.every=1.5", "model.name=3")
    assert [problem.remedy for problem in caught.value.problems] == ["put it in quotes to make it text", "", ""]


def test_a_union_is_one_problem(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        load(write(GOOD), "method.targets=[1, 2, 3]", "method.refactor.damping=2")
    assert [problem.what for problem in caught.value.problems] == [
        "wrong value for method.targets",
        "wrong value for method.refactor.damping",
    ]


def test_a_wrong_preset_is_not_blamed_on_the_fields_of_its_rule(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        load(write(GOOD), "method.name=reflroa", "method.update.interval=2")
    (problem,) = caught.value.problems
    assert problem.what == "wrong value for method.name"


def test_errors_name_the_file_that_is_wrong(write: Write) -> None:
    write(GOOD.replace("rank: 8", "rank: 0"), "low.yaml")
    top = write("extends: low.yaml\ntrain:\n  seed: -1\n")
    with pytest.raises(InputError) as caught:
        load(top)
    rank, seed = caught.value.problems
    assert rank.where.endswith("low.yaml, line 5, method.rank")
    assert seed.where.endswith("x.yaml, line 3, train.seed")


def test_circle_of_files(write: Write) -> None:
    write("extends: b.yaml", "a.yaml")
    with pytest.raises(InputError, match=r"circle(.|\n)*b\.yaml -> .*a\.yaml -> .*b\.yaml"):
        load(write("extends: a.yaml", "b.yaml"))


# Errors in overrides

OVERRIDES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "value": (("method.rank=0",), ("wrong value for method.rank", "where: override method.rank=0\n", ">= 1")),
    "type": (("method.rank=eight",), ("override method.rank=eight", "'eight' (text)", "a whole number >= 1")),
    "unknown key": (("train.lerning_rate=1",), ("unknown key 'lerning_rate'", "override", "'learning_rate'")),
    "unknown section": (("trian.seed=1",), ("unknown key 'trian'", "override trian.seed=1", "mean 'train'")),
    "key of no section": (("rank=4",), ("unknown key 'rank'", "did you mean 'method.rank'?")),
    "below a value": (("method.rank.of=1",), ("wrong value for method.rank", "override method.rank.of=1", "(section)")),
    "section": (("task=glue/cola",), ("wrong value for task", "override task=glue/cola", "a section with name")),
    "kind": (("method.update=reflroa",), ("wrong value for method.update\n", "override method.update=reflroa", "mean")),
    "kind by its key": (
        ("method.update.kind=x",),
        ("wrong value for method.update\n", "override method.update.kind=x"),
    ),
    "field of a choice": (
        ("method.update.interval=0",),
        ("method.update.interval", "override method.update.interval=0"),
    ),
    "field of a kind": (("method.layer.rank=0",), ("unknown key 'rank'", "mean 'method.rank'?")),
    "removed": (("model.name=",), ("wrong value for model.name", "override model.name=", "found: null")),
    "refused": (("method.refactor.warmup_steps=0",), ("B = 0", "where: override method.refactor.warmup_steps=0")),
    "never": (("eval.every=never",), ("eval.every=never makes none", "where: override eval.every=never")),
    "task": (("task.name=cola",), ("no such task", "where: override task.name=cola", "did you mean 'glue/cola'?")),
    "extends": (("extends=glue/cola",), ("unknown key 'extends'",)),
    "yaml": (("method.targets=[a",), ("not readable YAML", "override method.targets=[a, line 1, column")),
    "code": (("model.name=!!python/name:os.system",), ("not readable YAML", "python/name")),
    "no equals sign": (("method.rank",), ("malformed", "override method.rank", "KEY=VALUE")),
    "no key": (("=4",), ("malformed", "KEY=VALUE")),
    "dots": (("method..rank=4",), ("malformed", "override method..rank=4")),
    "two of them": (("a", "b"), ("override a", "override b")),
    "half a character": (("a\udcff=4",), ("malformed",)),
    "half a character in the value": (("model.name=\udcff",), ("not text", "U+DCFF")),
}


@pytest.mark.parametrize("case", OVERRIDES)
def test_wrong_override(case: str, write: Write) -> None:
    overrides, expected = OVERRIDES[case]
    with pytest.raises(InputError) as caught:
        load(write(GOOD), *overrides)
    assert not [words for words in expected if words not in str(caught.value)], str(caught.value)


def test_a_missing_key_is_not_blamed_on_an_override_beside_it(write: Write) -> None:
    with pytest.raises(InputError) as caught:
        load(write(GOOD.replace("  name: glue/cola", "  data: hub")), "task.max_length=8")
    (problem,) = caught.value.problems
    assert problem.what == "task.name is missing"
    assert problem.where.endswith("x.yaml")


# Files that are none

# a is nine words, b nine of a, c nine of b, ...: 9^10 in all
BOMB = f"a: &a [{'x,' * 9}]\n" + "".join(f"{b}: &{b} [{f'*{a},' * 9}]\n" for a, b in pairwise("abcdefghij"))
NO_RECIPES: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty": (b"", ("no sections", "found: nothing", "model, method, task, train, eval")),
    "comments": (b"# nothing\n", ("no sections", "found: nothing")),
    "a list": (b"- model\n", ("no sections", "found: ['model'] (list)")),
    "a word": (b"model\n", ("no sections", "found: 'model' (text)")),
    "latin 1": ("model: é\n".encode("latin-1"), ("not UTF-8",)),
    "binary": (bytes(range(256)), ("not UTF-8",)),
    "zeros": (bytes(100), ("not text", "character 1", "U+0000")),
    "deep": (b"[" * 50_000, ("nested too deeply",)),
    "deeper than any recipe": (b"{a: " * 30 + b"}" * 30, ("nested too deeply",)),
    "large": (b"a: 1\n" * 100_000, ("too large", "500000 bytes")),
    "a bomb": (BOMB.encode(), ("aliases",)),
    "escape beyond Unicode": (b'a: "\\UFFFFFFFF"', ("cannot be read",)),
}


@pytest.mark.parametrize("case", NO_RECIPES)
def test_not_a_recipe(case: str, write: Write) -> None:
    content, expected = NO_RECIPES[case]
    with pytest.raises(InputError) as caught:
        load(write(content))
    message = str(caught.value)
    assert not [words for words in ("x.yaml", *expected) if words not in message], message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("glue/coal", ("no such recipe", "'glue/cola'")),
        ("glue/cola.yaml", ("no such recipe", "'glue/cola'")),
        ("base/glue", ("no such recipe",)),
        ("nowhere.yaml", ("no such recipe", "nowhere.yaml")),
        ("/", ("not a directory",)),
        (".", ("not a directory",)),
        ("", ("no such recipe",)),
        ("~nobody-of-that-name/x.yaml", ("no such recipe",)),
        ("a" * 5000, ("no such recipe",)),
        ("a\0b", ("no such recipe",)),
    ],
)
def test_no_such_recipe(source: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe(source, [])
    assert not [words for words in expected if words not in str(caught.value)], str(caught.value)
