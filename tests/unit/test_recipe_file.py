"""Recipes from files, `extends` and overrides; and every way in which one can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reflora_cli.errors import InputError
from reflora_cli.methods import AXES, PRESETS, Layer, Method, Scaling, Update
from reflora_cli.recipe import Recipe
from reflora_cli.recipe_file import bundled_recipes, dump_recipe, load_recipe

MINIMAL = "model: {name: builtin:tiny-llama}\ntask: {name: builtin/entailment}\ntrain: {epochs: 1}\n"


def written(directory: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def load(directory: Path, text: str, *overrides: str) -> Recipe:
    return load_recipe(str(written(directory, text)), overrides)


def failure(directory: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load(directory, text, *overrides)
    return str(caught.value)


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", ".1e-2", "0.001"])
def test_every_way_to_write_a_number_is_a_number(tmp_path: Path, text: str) -> None:
    assert load(tmp_path, MINIMAL, f"train.learning_rate={text}").train.learning_rate == 1e-3


def test_quoted_number_stays_text(tmp_path: Path) -> None:
    message = failure(tmp_path, MINIMAL, 'train.learning_rate="1e-3"')
    assert "'1e-3' (text)" in message
    assert "a number" in message


def test_overrides_come_after_the_file_and_the_file_after_what_it_extends(tmp_path: Path) -> None:
    written(tmp_path, MINIMAL + "method: {rank: 2, alpha: 3}\n", "base.yaml")
    recipe = load(tmp_path, "extends: base.yaml\nmethod: {rank: 4, dropout: 0.1}\n", "method.dropout=0.2")
    assert (recipe.method.alpha, recipe.method.rank, recipe.method.dropout) == (3, 4, 0.2)


def test_bundled_recipe_can_be_extended_by_name(tmp_path: Path) -> None:
    recipe = load(tmp_path, "extends: glue/cola\ntrain: {seed: 7}\n")
    assert (recipe.task.name, recipe.train.seed, recipe.model.classifier_dropout) == ("glue/cola", 7, 0.15)


def test_a_later_preset_drops_the_axes_of_earlier_layers(tmp_path: Path) -> None:
    """A preset stands for all axes: `method.name=dora` on a resolved recipe is DoRA, not LoRA under its name."""
    resolved = dump_recipe(load(tmp_path, MINIMAL + "method: {name: reflora, scaling: rslora}\n"))
    recipe = load(tmp_path, resolved, "method.name=dora")
    assert (recipe.method.layer, recipe.method.update, recipe.method.scaling) == (
        Layer.DORA,
        Update.PLAIN,
        Scaling.STANDARD,
    )
    assert recipe.method.label == "dora"


def test_axes_beside_or_after_a_preset_make_a_custom_method(tmp_path: Path) -> None:
    recipe = load(tmp_path, MINIMAL + "method: {name: dora, scaling: rslora}\n", "method.update=reflora")
    assert (recipe.method.layer, recipe.method.update) == (Layer.DORA, Update.REFLORA)
    assert recipe.method.label == "dora, update reflora, scaling rslora"


def test_steps_replace_inherited_epochs_and_the_reverse(tmp_path: Path) -> None:
    assert load(tmp_path, MINIMAL, "train.steps=7").train.epochs is None
    assert load(tmp_path, MINIMAL, "train.steps=7", "train.epochs=2").train.steps is None
    assert "either train.epochs or train.steps" in failure(tmp_path, MINIMAL.replace("1}", "1, steps: 2}"))


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        (MINIMAL + "method:\n  rnak: 3\n", (), ("unknown key 'rnak'", "recipe.yaml, line 5, method.rnak", "'rank'")),
        (MINIMAL + "rank: 3\n", (), ("unknown key 'rank'", "line 4", "'method.rank'")),
        (MINIMAL, ("method.rank=0",), ("method.rank", "override method.rank=0", "0 (whole number)", "equal to 1")),
        (MINIMAL, ("method.rank=two",), ("'two' (text)", "a whole number")),
        (MINIMAL, ("method.rank=2.5",), ("2.5 (number)", "a whole number")),
        (MINIMAL, ("method.rank=true",), ("True (true or false)", "a whole number")),
        (MINIMAL, ("method.dropout=1",), ("method.dropout", "less than 1")),
        (MINIMAL, ("method.layer=dorra",), ("method.layer", "'dorra'", "'lora' or 'dora'")),
        (MINIMAL, ("method.name=reflroa",), ("unknown method 'reflroa'", "'reflora'")),
        (MINIMAL, ("method.targets=3",), ("method.targets", "a list or 'all-linear'")),
        (MINIMAL, ("method.targets=[]",), ("targets is empty",)),
        (MINIMAL, ("train.learning_rate=.inf",), ("train.learning_rate", "finite")),
        (MINIMAL, ("train.schedule=linaer",), ("train.schedule", "'linear'")),
        (MINIMAL, ("eval.every=never",), ("eval.select=last",)),
        (MINIMAL, ("eval.every=0",), ("at least 1 step",)),
        (MINIMAL, ("task.name=glue/colla",), ("glue/colla", "glue/cola")),
        (MINIMAL, ("task=3",), ("task", "a section with keys")),
        (MINIMAL, ("method.update=reflora", "method.refactor.warmup_steps=0"), ("B = 0",)),
        (MINIMAL, ("method.refactor.damping=2",), ("damping",)),
        (MINIMAL, ("=3",), ("an override is malformed",)),
        (MINIMAL, ("method.rank",), ("KEY=VALUE",)),
        (MINIMAL, ("method.rank=[1",), ("override method.rank=[1", "YAML")),
        ("task: {name: builtin/entailment}\ntrain: {epochs: 1}\n", (), ("lacks model",)),
        ("", (), ("no sections", "nothing")),
        ("- 1\n", (), ("no sections", "list")),
        ("model: {name: x\n", (), ("not readable YAML", "line 2")),
        ("a: 1\na: 2\n", (), ("'a' stands twice", "line 2")),
        ("a: &x [*x]\n", (), ("YAML",)),
        ("model: !!python/name:os.system\n", (), ("python/name", "line 1")),
        ("? [a]\n: 1\n", (), ("a key must be plain text",)),
        ("extends: nowhere.yaml\n", (), ("does not exist", "line 1", "nowhere.yaml")),
        ("extends: 3\n", (), ("extends names no recipe",)),
        ("extends: recipe.yaml\n", (), ("in a circle",)),
        ("a: " + "[" * 5000 + "\n", (), ("YAML",)),
        ("\x00\x01", (), ("YAML",)),
    ],
)
def test_wrong_recipe_says_what_where_and_what_instead(
    tmp_path: Path, text: str, overrides: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    message = failure(tmp_path, text, *overrides)
    assert not [part for part in expected if part not in message], message


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    message = failure(tmp_path, MINIMAL, "method.rank=0", "train.batch_size=no", "evall.every=epoch")
    assert all(part in message for part in ("method.rank", "train.batch_size", "'evall'", "'eval'"))


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.yaml").write_bytes(b"#" * 2_000_000)
    for source, expected in (
        (str(tmp_path / "binary.yaml"), "not UTF-8"),
        (str(tmp_path / "large.yaml"), "too large"),
        (str(tmp_path), "not a directory"),
        (str(tmp_path / "absent.yaml"), "no such recipe"),
        ("glue/colla", "glue/cola"),
    ):
        with pytest.raises(InputError, match=expected):
            load_recipe(source, [])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace")))
)
def test_any_bytes_give_a_recipe_or_an_input_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        load_recipe(str(path), [])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(override=st.text(max_size=40))
def test_any_override_gives_a_recipe_or_an_input_error(tmp_path: Path, override: str) -> None:
    path = tmp_path / "recipe.yaml"
    if not path.exists():
        written(tmp_path, MINIMAL)
    try:
        load_recipe(str(path), [override])
    except InputError as error:
        assert error.problems


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    preset=st.sampled_from(sorted(PRESETS)),
    rank=st.integers(1, 512),
    alpha=st.floats(1e-6, 1e6),
    rate=st.floats(1e-12, 10.0),
    targets=st.one_of(st.just("all-linear"), st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3)),
    every=st.one_of(st.just("epoch"), st.integers(1, 10**6)),
)
def test_dumped_recipe_reads_back_equal(
    tmp_path: Path, preset: str, rank: int, alpha: float, rate: float, targets: object, every: object
) -> None:
    values = {
        "model": {"name": "x"},
        "method": {"name": preset, "rank": rank, "alpha": alpha, "targets": targets},
        "task": {"name": "glue/cola"},
        "train": {"steps": 3, "learning_rate": rate},
        "eval": {"every": every},
    }
    recipe = Recipe.model_validate(values)
    assert load_recipe(str(written(tmp_path, dump_recipe(recipe))), []) == recipe


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", bundled_recipes())
def test_every_bundled_recipe_is_valid_with_every_preset(name: str, preset: str) -> None:
    assert load_recipe(name, [f"method.name={preset}"]).method.label == preset


def test_bundled_recipes_are_found_by_their_names() -> None:
    tasks = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
    assert set(bundled_recipes()) == {"quickstart", *(f"glue/{task}" for task in tasks)}


def test_cola_is_as_published() -> None:
    recipe = load_recipe("glue/cola", [])
    assert recipe.model.classifier_dropout == 0.15
    assert recipe.method == Method(
        name="reflora",
        rank=8,
        alpha=8.0,
        targets=("query_proj", "key_proj", "value_proj", "output.dense", "intermediate.dense"),
    )
    assert recipe.method.refactor.warmup_steps == 100
    train = recipe.train
    assert (train.learning_rate, train.epochs, train.batch_size, train.warmup_steps) == (1e-3, 5, 32, 100)
    assert (train.weight_decay, train.max_grad_norm, recipe.task.max_length) == (0, 1, 64)
    assert recipe.eval.select == "last"


def test_every_axis_is_a_field_of_the_method() -> None:
    assert set(AXES) <= set(Method.model_fields)
    assert all(set(preset) <= set(AXES) for preset in PRESETS.values())
