"""From files and overrides to a Recipe and back to text: numbers, precedence, any bytes at all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reflora_cli.ground.errors import InputError
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.method import Method
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.updates import UPDATES
from reflora_cli.recipe.files import dump_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.recipe.yaml_lines import write_yaml
from reflora_cli.tasks.registry import TASKS
from tests.models import acts_on
from tests.unit.recipe_texts import GOOD, load, put

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a recipe and return its path."""
    return partial(put, tmp_path)


# Numbers and text


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("1E5", 1e5), ("1e+5", 1e5), (".5e1", 5.0), ("5.e0", 5.0), ("0.001", 1e-3)],
)
def test_numbers_of_yaml_1_2(text: str, value: float, write: Write) -> None:
    assert load(write(GOOD), f"train.learning_rate={text}").train.learning_rate == value
    assert load(write(GOOD + f"  learning_rate: {text}\n")).train.learning_rate == value


def test_negative_exponents_are_numbers_too(write: Write) -> None:
    with pytest.raises(InputError, match=r"found: -0\.0001 \(number\)"):
        load(write(GOOD), "train.weight_decay=-1e-4")


def test_quoted_numbers_stay_text(write: Write) -> None:
    assert load(write(GOOD), "model.revision='1e-3'").model.revision == "1e-3"
    assert load(write(GOOD), "model.revision=a1e-3").model.revision == "a1e-3"


# Precedence


def test_layers_from_the_bottom_up(write: Write) -> None:
    write(GOOD + "  batch_size: 4\n  seed: 4\n  log_every: 4\n", "a/low.yaml")
    write("extends: a/low.yaml\ntrain: {seed: 5, log_every: 5}\n", "middle.yaml")
    top = write("extends: ../middle.yaml\ntrain: {log_every: 6}\n", "b/top.yaml")
    train = load(top, "train.warmup_steps=7", "train.keep_checkpoints=7", "train.keep_checkpoints=8").train
    assert (train.batch_size, train.seed, train.log_every, train.warmup_steps, train.keep_checkpoints) == (
        4,
        5,
        6,
        7,
        8,
    )


def test_bundled_recipes_can_be_extended(write: Write) -> None:
    assert load(write("extends: glue/cola\ntrain: {epochs: 1}\n")).model.classifier_dropout == 0.15
    assert load(write("extends: base/glue\n")).model.dtype == "float32"


def test_a_file_beside_wins_over_a_bundled_name(write: Write) -> None:
    write(GOOD, "glue/cola")
    assert load(write("extends: glue/cola")).model.name == "some/model"


def test_sections_merge_deeply_and_lists_are_replaced(write: Write) -> None:
    write(GOOD + "  seed: 3\n", "low.yaml")
    child = "extends: low.yaml\nmethod: {targets: [a, b], refactor: {interval: 4}}\n"
    method = load(write(child), "method.refactor.warmup_steps=9", "method.targets=[c]").method
    assert (method.rank, method.update.interval, method.update.warmup_steps) == (8, 4, 9)
    assert method.targets == ("c",)


def test_a_section_can_be_given_whole(write: Write) -> None:
    assert load(write(GOOD), "method={rank: 4, alpha: 2}").method.rank == 4


def test_a_later_preset_drops_axes_of_earlier_layers(write: Write) -> None:
    axes = "method: {name: lora, layer: dora, scaling: rslora, lr_ratio: 4, update: reflora-s, rank: 2}\n"
    write(GOOD.replace("method:\n  name: reflora\n  rank: 8\n", axes), "low.yaml")
    child = write("extends: low.yaml\nmethod: {name: lora}\n")
    assert load(child).method.label == "lora"
    assert load(child).method.rank == 2
    assert load(child.parent / "low.yaml", "method.name=reflora").method.label == "reflora"


def test_axes_of_the_same_layer_stay(write: Write) -> None:
    child = write("extends: glue/cola\nmethod: {update: reflora-s, name: dora}\n")
    method = load(child).method
    assert (method.layer.kind, method.update.kind) == ("dora", "reflora-s")
    method = load(child, "method.scaling=rslora").method
    assert (method.layer.kind, method.update.kind, method.scaling) == ("dora", "reflora-s", Scaling.RSLORA)


@pytest.mark.parametrize("order", [1, -1])
def test_order_of_overrides_does_not_matter_between_preset_and_axis(order: int, write: Write) -> None:
    overrides = ["method.name=dora", "method.update=reflora"][::order]
    assert load(write(GOOD), *overrides).method.label == "dora, update reflora"


OLD_CHOICES = """
  layer: lora
  init: gaussian
  update: reflora
  refactor:
    warmup_steps: 3
    interval: 1
    damping: auto
"""
"""The choices of a run's recipe as they were written before choices had fields."""


def test_a_recipe_of_an_earlier_version_is_an_equal_recipe(write: Write) -> None:
    old = load(write(GOOD.replace("  rank: 8\n", f"  rank: 8{OLD_CHOICES}")))
    text = dump_recipe(old)
    assert not {"refactor:", "init:"} & set(text.split())
    assert load(write(text)) == old
    assert load(write(GOOD), "method.start=gaussian", "method.update.warmup_steps=3") == old


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        # A field over the short form, and the other way round.
        ("update: scaled-gd", ["update.warmup_steps=3"], {"kind": "scaled-gd", "warmup_steps": 3}),
        ("update: {warmup_steps: 3}", ["update=scaled-gd"], {"kind": "scaled-gd", "warmup_steps": 3}),
        ("update: {kind: scaled-gd, interval: 2}", ["update=scaled-gd"], {"kind": "scaled-gd", "interval": 2}),
        ("update: {interval: 2}", ["update.warmup_steps=3"], {"warmup_steps": 3, "interval": 2}),
        # Another kind comes without the fields of the one below.
        ("update: {damping: 0.5, interval: 2}", ["update.kind=reflora"], {"damping": 0.5, "interval": 2}),
        ("update: {kind: reflora, damping: 0.5, interval: 2}", ["update=reflora-s"], {"kind": "reflora-s"}),
        ("update: {kind: reflora, damping: 0.5}", ["update.kind=reflora-s"], {"kind": "reflora-s"}),
        # The two places of a rule's settings: of two layers the later one counts.
        ("update: {warmup_steps: 3}", ["refactor.warmup_steps=4"], {"warmup_steps": 4}),
        ("refactor: {warmup_steps: 3, interval: 2}", ["update.warmup_steps=4"], {"warmup_steps": 4, "interval": 2}),
        ("refactor: {warmup_steps: 3}", ["update={kind: scaled-gd}"], {"kind": "scaled-gd", "warmup_steps": 3}),
        ("rank: 4", ["update.warmup_steps=3", "refactor.warmup_steps=4"], {"warmup_steps": 4}),
        ("rank: 4", ["refactor.warmup_steps=4", "update.warmup_steps=3"], {"warmup_steps": 3}),
        # In either order: overrides are one layer.
        ("rank: 4", ["update=scaled-gd", "update.interval=2"], {"kind": "scaled-gd", "interval": 2}),
        ("rank: 4", ["update.interval=2", "update=scaled-gd"], {"kind": "scaled-gd", "interval": 2}),
        # A preset drops the rule below it with its settings, but not the section for whichever rule there is.
        ("update: {kind: reflora-s, interval: 2}", ["name=scaled-gd"], {"kind": "scaled-gd"}),
        ("update: {interval: 2}", ["name=reflora"], {}),
        ("refactor: {interval: 2}", ["name=scaled-gd"], {"kind": "scaled-gd", "interval": 2}),
        ("refactor: {interval: 2}", ["name=lora"], {"kind": "plain"}),
    ],
)
def test_choices_in_layers(below: str, above: list[str], expected: dict[str, Any], write: Write) -> None:
    path = write(GOOD.replace("  rank: 8\n", f"  {below}\n"))
    meant = Method.model_validate({"update": {"kind": "reflora"} | expected}).update
    assert load(path, *(f"method.{override}" for override in above)).method.update == meant


def test_choices_in_files(write: Write) -> None:
    write(GOOD.replace("rank: 8", "update: {kind: scaled-gd, interval: 2, damping: 0.5}"), "low.yaml")
    middle = "extends: low.yaml\nmethod: {update: {interval: 3}, refactor: {warmup_steps: 4}}\n"
    assert load(write(middle, "middle.yaml")).method.update.model_dump() == {
        "kind": "scaled-gd",
        "warmup_steps": 4,
        "interval": 3,
        "damping": 0.5,
    }
    top = load(write("extends: middle.yaml\nmethod: {update: reflora-s}\n")).method.update
    assert top.model_dump() == {"kind": "reflora-s", "warmup_steps": 4, "interval": 1}


def test_the_two_names_of_the_start_replace_each_other(write: Write) -> None:
    path = write(GOOD.replace("rank: 8", "init: gaussian"))
    assert load(path).method.start.kind == "gaussian"
    assert load(path, "method.start=default").method.start.kind == "default"
    path = write(GOOD.replace("rank: 8", "start: {kind: default}"))
    assert load(path, "method.init=gaussian").method.start.kind == "gaussian"
    assert load(path, "method.name=lora").method.start.kind == "default"


def test_a_wrong_kind_is_blamed_on_the_layer_that_says_it(write: Write) -> None:
    path = write(GOOD.replace("rank: 8", "update: scaled-gd"))
    with pytest.raises(InputError, match=r"where: override method\.update=reflroa"):
        load(path, "method.update=reflroa")
    with pytest.raises(InputError, match=r"x\.yaml, line 5, method\.update\n"):
        load(write(GOOD.replace("rank: 8", "update: reflroa")), "method.update.interval=2")


def test_steps_and_epochs_replace_each_other(write: Write) -> None:
    path = write(GOOD)
    by_steps = load(path, "train.steps=9").train
    assert (by_steps.steps, by_steps.epochs) == (9, None)
    write(GOOD.replace("epochs: 3", "steps: 9"), "steps.yaml")
    by_epochs = load(write("extends: steps.yaml\ntrain: {epochs: 2}\n", "child.yaml")).train
    assert (by_epochs.steps, by_epochs.epochs) == (None, 2.0)
    assert load(path, "train.epochs=null", "train.steps=4").train.steps == 4
    assert load(path, "train.steps=null").train.epochs == 3.0


def test_the_last_override_of_how_long_counts(write: Write) -> None:
    by_epochs = load(write(GOOD), "train.steps=9", "train.epochs=2").train
    assert (by_epochs.steps, by_epochs.epochs) == (None, 2.0)


def test_steps_and_epochs_of_one_file_contradict(write: Write) -> None:
    with pytest.raises(InputError, match=r"both say how long to train\n  where: .*x\.yaml, line 10, train\.steps"):
        load(write(GOOD + "  steps: 5\n"))


def test_a_run_s_own_recipe_takes_another_preset(write: Write) -> None:
    """It spells all axes out, and still `method.name=dora` on it is DoRA, not RefLoRA's steps under that name."""
    resolved = dump_recipe(load(write(GOOD), "method.scaling=rslora"))
    assert load(write(resolved), "method.name=dora").method.label == "dora"


def test_aliases_and_merge_keys(write: Write) -> None:
    text = GOOD.replace("  rank: 8\n", "  rank: &r 8\n  alpha: *r\n") + "  <<: {seed: 3, epochs: 9}\n"
    recipe = load(write(text))
    assert (recipe.method.alpha, recipe.train.seed, recipe.train.epochs) == (8.0, 3, 3.0)


def test_byte_order_mark_and_windows_lines(write: Write) -> None:
    assert load(write(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())).method.rank == 8


# Any bytes: a recipe or an InputError, nothing else

TAGS = "int float bool timestamp binary omap pairs set null"
WORDS = "1e-3 0o7 0b1 1_0 1:30 .inf .nan null on 2024-01-01 all-linear glue/cola &a *a = ~ [ ] { } , ' # é"
SCRAPS = [
    *GOOD.splitlines(keepends=True),
    *(f"!!{tag} " for tag in TAGS.split()),
    *WORDS.split(),
    *("extends: ", "rank: ", "targets: ", "every: ", "500 steps", "steps: 5\n", "<<: ", "? ", ": ", "- ", "|\n", ">\n"),
    *("%YAML 1.1\n", "---\n", "...\n", "\n", "  ", '"', "\\", "\x85", "\ufeff", "\ud7ff"),
]
FUZZ = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.binary(max_size=200) | st.lists(st.sampled_from(SCRAPS), max_size=25).map(lambda all: "".join(all).encode()))
def test_any_bytes(write: Write, content: bytes) -> None:
    path = write(content)
    try:
        assert isinstance(load(path), Recipe)
    except InputError as error:
        assert error.problems
        assert all(problem.what for problem in error.problems)


@FUZZ
@given(
    st.integers(0, len(GOOD)),
    st.integers(0, 12),
    st.lists(st.sampled_from(SCRAPS), max_size=4).map("".join) | st.text(max_size=12),
)
def test_any_edit_of_a_recipe(write: Write, start: int, length: int, new: str) -> None:
    path = write((GOOD[:start] + new + GOOD[start + length :]).encode("utf-8", "surrogatepass"))
    try:
        recipe = load(path)
    except InputError as error:
        assert str(error)
    else:
        assert load(write(dump_recipe(recipe))) == recipe


@FUZZ
@given(st.sampled_from(["method.rank", "train", "model.name", "task", "a.b.c", "eval.every", ""]), st.text(max_size=20))
def test_any_override(write: Write, key: str, value: str) -> None:
    for override in (f"{key}={value}", value):
        try:
            assert isinstance(load(write(GOOD), override), Recipe)
        except InputError as error:
            assert str(error)


KEYS = ["kind", "warmup_steps", "interval", "damping", "warmup_step", "dampin"]
LEAVES = st.sampled_from([*UPDATES, "auto", "dora", "gaussian", 0, 1, 3, 0.5, True, None, "x", [], [{}]])
MAPPINGS = st.dictionaries(st.sampled_from(KEYS), LEAVES | st.dictionaries(st.sampled_from(KEYS), LEAVES, max_size=2))
TIMING = {"warmup_steps": st.integers(1, 3), "interval": st.integers(1, 3), "damping": st.just("auto") | st.just(0.5)}
OF_PAIRS = [kind for kind in UPDATES if acts_on(kind, "lora")]
RULES = st.sampled_from(OF_PAIRS) | st.fixed_dictionaries(
    {}, optional={"kind": st.sampled_from(["reflora", "scaled-gd"]), **TIMING}
)
SOUND = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["reflora", "scaled-gd", "lora"]),
        "layer": st.sampled_from(["lora", "dora", {"kind": "dora"}]),
        "init": st.sampled_from(["default", "gaussian"]),
        "update": RULES,
        "refactor": st.fixed_dictionaries({}, optional=TIMING),
    },
)
WILD = st.dictionaries(
    st.sampled_from(["layer", "start", "init", "update", "refactor", "name"]), LEAVES | MAPPINGS, max_size=4
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(SOUND | WILD, SOUND | WILD)
def test_any_choices_in_two_layers(write: Write, below: dict[str, Any], above: dict[str, Any]) -> None:
    """A recipe that is read back as an equal one, or problems that say where and what."""
    section = write_yaml({"method": below}) if below else ""
    path = write(GOOD.replace("method:\n  name: reflora\n  rank: 8\n", section))
    try:
        recipe = load(path, *(f"method.{key}={json.dumps(value)}" for key, value in above.items()))
    except InputError as error:
        assert all(problem.what and problem.where for problem in error.problems)
    else:
        assert load(write(dump_recipe(recipe), "again.yaml")) == recipe


# Presets that train the base itself

BASE = "model: {name: m}\ntask: {name: glue/cola}\ntrain: {steps: 9}\n"
ADAPTED = BASE + "method: {name: reflora, rank: 4, alpha: 2, dropout: 0.1, targets: [query], start: gaussian}\n"


def test_full_fine_tuning_leaves_behind_what_earlier_layers_say_of_adapters(write: Write) -> None:
    path = write(ADAPTED)
    assert load(path, "method.name=full").method == Method(name="full")
    assert load(path, "method.name=full", "method.targets=[key]").method == Method(name="full", targets=("key",))
    assert load(path, "method.name=lora").method == Method(
        name="lora", rank=4, alpha=2, dropout=0.1, targets=("query",)
    )
    text = dump_recipe(load(path, "method.name=bitfit"))
    assert load(write(text, "again.yaml")).method == Method(name="bitfit")


def test_what_is_said_of_adapters_beside_full_fine_tuning_is_refused(write: Write) -> None:
    with pytest.raises(InputError, match=r"method\.rank=16 is for adapters") as caught:
        load(write(ADAPTED), "method.name=full", "method.rank=16")
    assert caught.value.problems[0].where == "override method.rank=16"


@pytest.mark.parametrize("override", ["model.quantization=nf4", "model.sharded=true"])
def test_weights_that_train_are_whole(override: str, write: Write) -> None:
    with pytest.raises(InputError, match="layer=full trains the base's weights") as caught:
        load(write(ADAPTED), "method.name=full", override)
    assert caught.value.problems[0].where == f"override {override}"
    assert load(write(ADAPTED), "method.name=bitfit", override).method.name == "bitfit"


# And back

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20) | st.sampled_from(
    ["1e-3", "1E5", ".5e3", "null", "yes", "on", "~", "0x1f", "1:30", "2024-01-01", "=", "<<", " x ", "a: b", "#"]
)


def numbers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=True, exclude_max=True, allow_nan=False)


def values() -> st.SearchStrategy[dict[str, Any]]:
    """Valid recipes as plain values."""
    length = st.fixed_dictionaries({"epochs": numbers(0, 1e6)}) | st.fixed_dictionaries({"steps": st.integers(1, 9)})
    own = {name: Method(name=name) for name in PRESETS}
    # Some starts do not go with every base or rule, and the rule of another does not go with every start.
    free = [
        name
        for name, one in own.items()
        if not (one.start.corrects_quantization or one.start.is_deficient)
        and (one.update.is_plain or not one.start.is_nonzero)
    ]
    method = {
        "name": st.sampled_from([name for name in free if own[name].layer.has_pairs]),
        "alpha": numbers(0, 1e9),
        "dropout": numbers(0, 1),
        "targets": st.just("all-linear") | st.lists(TEXT, min_size=1),
        "trainable_modules": st.just("auto") | st.lists(TEXT),
        "layer": st.sampled_from(["lora", "dora"]),
        "start": st.sampled_from(["default", "gaussian"]) | st.just({"kind": "gaussian"}),
        "update": st.fixed_dictionaries(
            {"kind": st.sampled_from([kind for kind in OF_PAIRS if not UPDATES[kind].holds_a])}
        ),
        "refactor": st.fixed_dictionaries(
            {"warmup_steps": st.integers(1, 9)}, optional={"damping": st.just("auto") | numbers(0, 1)}
        ),
    }
    without_pairs = [name for name in PRESETS if not own[name].layer.has_pairs]
    of_modules = st.sampled_from([name for name in without_pairs if not own[name].layer.is_virtual])
    before_rows = st.sampled_from([name for name in without_pairs if own[name].layer.is_virtual])
    trainable = {"trainable_modules": method["trainable_modules"]}
    model = {"revision": st.none() | TEXT, "classifier_dropout": st.none() | numbers(0, 1)}
    train = {"learning_rate": numbers(0, 1), "seed": st.integers(0, 2**32 - 1), "gradient_checkpointing": st.booleans()}
    evaluation = {"every": st.integers(1, 2**62) | st.just("epoch"), "select": st.sampled_from(["best", "last"])}
    return st.fixed_dictionaries(
        {
            "model": st.fixed_dictionaries({"name": TEXT}, optional=model),
            "task": st.fixed_dictionaries({"name": st.sampled_from(sorted(TASKS)), "data": TEXT}),
            "train": st.builds(dict.__or__, length, st.fixed_dictionaries({}, optional=train)),
        },
        optional={
            "method": st.fixed_dictionaries({}, optional=method)
            | st.fixed_dictionaries({"name": of_modules}, optional={"targets": method["targets"], **trainable})
            | st.fixed_dictionaries({"name": before_rows}, optional=trainable),
            "eval": st.fixed_dictionaries({}, optional=evaluation),
        },
    )


@FUZZ
@given(values())
def test_dump_is_read_back_as_an_equal_recipe(write: Write, plain: dict[str, Any]) -> None:
    try:
        recipe = Recipe.model_validate(plain)
    except ValidationError:  # a few draws do not go together, such as a prefix and recomputed activations
        reject()
    text = dump_recipe(recipe)
    assert load(write(text)) == recipe
    assert dump_recipe(load(write(text))) == text


def test_dump_is_plain_and_whole(write: Write) -> None:
    lines = dump_recipe(load(write(GOOD), "method.targets=[a, b.c]", "train.learning_rate=1e-5")).splitlines()
    for line in ("  targets: [a, b.c]", "  learning_rate: 1.0e-05", "    kind: lora", "  dtype: auto", "  steps: null"):
        assert line in lines
    assert not [line for line in lines if "!!" in line]
    assert [line for line in lines if line[0] != " "] == ["model:", "method:", "task:", "train:", "eval:"]


def test_nothing_heavy_is_imported() -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'sklearn', 'rich'}"
    code = f"import sys, reflora_cli.recipe.files; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_an_invalid_recipe_cannot_be_made_by_hand_either() -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate({"model": {"name": "m"}, "task": {"name": "t"}, "train": {}})
