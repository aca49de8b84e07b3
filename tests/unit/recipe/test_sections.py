"""The recipe's schema: defaults, bounds, and what does not go together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, ValidationError

from reflora_cli.methods.method import Method
from reflora_cli.methods.updates import UPDATES
from reflora_cli.recipe.sections import Recipe

LEAST: dict[str, Any] = {"model": {"name": "m"}, "task": {"name": "t"}, "train": {"epochs": 1}}


def recipe(**sections: dict[str, Any]) -> Recipe:
    """The least recipe with some keys changed."""
    return Recipe.model_validate(
        {**LEAST, **{name: {**LEAST.get(name, {}), **keys} for name, keys in sections.items()}}
    )


def sections(section: type[BaseModel] = Recipe) -> Iterator[type[BaseModel]]:
    """A section and all below it."""
    yield section
    for field in section.model_fields.values():
        for part in (field.annotation, *get_args(field.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                yield from sections(part)


def fields(kind: str) -> list[tuple[str, str]]:
    """Section and key of every field that holds a number of that kind, from the JSON schema."""
    found = []
    for name, part in Recipe.model_fields.items():
        if isinstance(part.annotation, type) and issubclass(part.annotation, BaseModel):
            properties = part.annotation.model_json_schema()["properties"]
            branches = {key: value.get("anyOf", [value]) for key, value in properties.items()}
            found += [(name, key) for key in branches if any(each.get("type") == kind for each in branches[key])]
    return found


def test_a_recipe_that_says_only_model_task_and_length_is_whole() -> None:
    """Whatever else there is has a default, and to say every default changes nothing."""
    least = recipe()
    assert least.method == Method()
    assert Recipe.model_validate(least.model_dump()) == least
    assert recipe(model={"name": "n"}) != least


def test_every_field_is_described() -> None:
    assert set(UPDATES.values()) <= set(sections())
    for part in sections():
        assert [key for key, field in part.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("section", [*LEAST, "method", "eval"])
def test_sections_are_closed_and_frozen(section: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        recipe(**{section: {"unknown_key": 1}})
    part = getattr(recipe(), section)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, next(iter(type(part).model_fields)), None)


@pytest.mark.parametrize(("section", "key"), fields("number"))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_no_number_is_infinite_or_nan(section: str, key: str, value: float) -> None:
    with pytest.raises(ValidationError):
        recipe(**{section: {key: value}})


@pytest.mark.parametrize(("section", "key"), [*fields("number"), *fields("integer")])
@pytest.mark.parametrize("value", [True, "3", [3], {"value": 3}])
def test_numbers_are_numbers(section: str, key: str, value: Any) -> None:
    with pytest.raises(ValidationError):
        recipe(**{section: {key: value}})


@pytest.mark.parametrize(
    ("section", "key", "value", "meant"),
    [
        ("model", "classifier_dropout", 0, 0),
        ("model", "classifier_dropout", 0.99, 0.99),
        ("task", "max_length", 1, 1),
        ("task", "max_train_rows", 1, 1),
        ("train", "max_grad_norm", 0, 0),
        ("train", "checkpoint_every", 0, 0),
        ("train", "warmup_steps", 0, 0),
        ("train", "epochs", 0.25, 0.25),
        ("eval", "every", 1, 1),
        ("eval", "every", "500 steps", 500),
        ("eval", "every", "1 step", 1),
    ],
)
def test_bounds_are_inclusive_where_they_should_be(section: str, key: str, value: Any, meant: Any) -> None:
    assert getattr(getattr(recipe(**{section: {key: value}}), section), key) == meant


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("model", "classifier_dropout", 1.0),
        ("model", "classifier_dropout", -0.1),
        ("model", "dtype", "fp16"),
        ("task", "max_length", 0),
        ("task", "max_eval_rows", 0),
        ("train", "epochs", 0),
        ("train", "batch_size", 0),
        ("train", "micro_batch_size", 0),
        ("train", "learning_rate", 0),
        ("train", "head_learning_rate", 0),
        ("train", "schedule", "exponential"),
        ("train", "weight_decay", -0.01),
        ("train", "momentum", 1.0),
        ("train", "optimizer", "sgd_8bit"),
        ("train", "max_grad_norm", -1),
        ("train", "seed", -1),
        ("train", "seed", 2**32),
        ("train", "log_every", 0),
        ("train", "checkpoint_every", -1),
        ("train", "keep_checkpoints", 0),
        ("eval", "every", 0),
        ("eval", "every", "0 steps"),
        ("eval", "every", "500 epochs"),
        ("eval", "every", "steps"),
        ("eval", "every", None),
        ("eval", "select", "first"),
    ],
)
def test_out_of_bounds(section: str, key: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        recipe(**{section: {key: value}})
    assert {error["loc"][:2] for error in caught.value.errors()} == {(section, key)}


def test_exactly_one_of_epochs_and_steps() -> None:
    assert Recipe.model_validate({**LEAST, "train": {"steps": 7}}).train.steps == 7
    with pytest.raises(ValidationError, match="both say how long"):
        recipe(train={"steps": 7})
    with pytest.raises(ValidationError, match="does not say how long"):
        recipe(train={"epochs": None})


@pytest.mark.parametrize("method", ["lora", "reflora", "reflora-s", "lora+"])
def test_gradient_descent_goes_with_every_update(method: str) -> None:
    assert recipe(method={"name": method}, train={"optimizer": "sgd", "momentum": 0.9}).train.momentum == 0.9


@pytest.mark.parametrize("optimizer", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
@pytest.mark.parametrize("kind", UPDATES)
def test_moments_of_bitsandbytes_are_refused_exactly_for_rules_that_transport_them(kind: str, optimizer: str) -> None:
    if not UPDATES[kind]().transports_moments:
        layer = "stella" if UPDATES[kind].of_frames else "lora"
        assert (
            recipe(method={"layer": layer, "update": kind}, train={"optimizer": optimizer}).method.update.kind == kind
        )
        return
    with pytest.raises(
        ValidationError, match=f"{kind} rescales AdamW's moments .* and train.optimizer={optimizer} keeps them"
    ):
        recipe(method={"update": kind}, train={"optimizer": optimizer})


def test_moments_in_8_bits_are_refused_where_balancing_transports_them() -> None:
    update = {"kind": "balanced", "moments": "transport"}
    with pytest.raises(
        ValidationError, match=r"balanced rescales AdamW's moments .* and train\.optimizer=adamw_8bit keeps them"
    ):
        recipe(method={"update": update}, train={"optimizer": "adamw_8bit"})
    assert recipe(method={"update": update}, train={"optimizer": "sgd"}).method.update.transports_moments


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd"])
def test_an_optimizer_of_pairs_goes_with_adamw_for_all_else(optimizer: str) -> None:
    values: dict[str, Any] = {"method": {"name": "lora-rite"}, "train": {"optimizer": optimizer}}
    if optimizer != "sgd":
        assert recipe(**values).method.update.is_optimizer
        return
    with pytest.raises(
        ValidationError,
        match=r"lora-rite needs learning rates like AdamW's for A and B, and train\.optimizer=sgd would",
    ):
        recipe(**values)


def test_gradient_descent_is_refused_beside_dense_moments_and_not_beside_those_of_factors() -> None:
    assert not recipe(method={"name": "lora-pro"}, train={"optimizer": "sgd"}).method.update.is_optimizer
    with pytest.raises(
        ValidationError, match=r"lora-pro needs learning rates like AdamW's for A and B, and train\.optimizer=sgd would"
    ):
        recipe(method={"update": {"kind": "lora-pro", "moments": "dense"}}, train={"optimizer": "sgd"})


def test_gradient_descent_goes_with_altlora_whose_rates_are_of_its_kind_and_not_with_that_of_both_moments() -> None:
    assert recipe(method={"name": "altlora"}, train={"optimizer": "sgd"}).method.update.is_optimizer
    with pytest.raises(
        ValidationError, match=r"altlora needs learning rates like AdamW's for A and B, and train\.optimizer=sgd would"
    ):
        recipe(method={"name": "altlora+"}, train={"optimizer": "sgd"})


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_momentum_is_that_of_gradient_descent(optimizer: str) -> None:
    with pytest.raises(
        ValidationError, match=r"has momentum of its own; set train\.momentum=0, or train\.optimizer=sgd"
    ):
        recipe(train={"optimizer": optimizer, "momentum": 0.9})


def test_best_needs_evaluations() -> None:
    assert recipe(eval={"every": "never", "select": "last"}).eval.every == "never"
    with pytest.raises(ValidationError, match=r"eval\.every=never makes none; set eval\.select=last"):
        recipe(eval={"every": "never"})


@pytest.mark.parametrize("key", ["model", "task", "train"])
def test_required_sections(key: str) -> None:
    with pytest.raises(ValidationError, match="Field required"):
        Recipe.model_validate({name: value for name, value in LEAST.items() if name != key})
