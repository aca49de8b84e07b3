"""`reflora combine`: what it writes is evaluated, merged and exported as any adapter, and wrong input is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from reflora_cli.merging.merge import MergeRequest, merge
from reflora_cli.recipe.files import load_recipe
from tests.cli.conftest import FEW, Reflora

WEIGHTS = "adapter_model.safetensors"


def train(reflora: Reflora, recipe: Path, output: Path, *overrides: str) -> Path:
    outcome = reflora("train", recipe, *FEW, "train.steps=4", "train.epochs=null", *overrides, "--output", output)
    assert outcome.status == 0, outcome.err
    return output


@pytest.fixture(scope="module")
def second(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with another start and seed: its base was moved."""
    output = tmp_path_factory.mktemp("runs") / "second"
    return train(reflora, recipe, output, "method.name=pissa", "method.rank=3", "train.seed=5", "eval.at_start=false")


@pytest.fixture(scope="module")
def rescaled(reflora: Reflora, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(reflora, recipe, tmp_path_factory.mktemp("runs") / "dora", "method.name=dora")


def test_one_run_scores_as_before(trained: Path, reflora: Reflora, tmp_path: Path) -> None:
    outcome = reflora("combine", trained, "--output", tmp_path / "one", "--json")
    assert outcome.status == 0, outcome.err
    found = outcome.json
    assert (found["modules"], found["rank"], found["lost"], found["weights"]) == (35, 4, None, [1.0])
    before = reflora("eval", trained, "--json").json["scores"]
    after = reflora("eval", trained, "--adapter", tmp_path / "one", "--json").json["scores"]
    for name, score in before["validation"].items():
        assert after["validation"][name] == pytest.approx(score, abs=1e-5)


def test_the_sum_is_evaluated_and_merged(trained: Path, second: Path, reflora: Reflora, tmp_path: Path) -> None:
    """The merged weights are the base's plus both changes, with the offset of the moved base among them."""
    outcome = reflora("combine", trained, second, "--weights", "0.5,1.5", "--output", tmp_path / "sum")
    assert outcome.status == 0, outcome.err
    assert reflora("eval", trained, "--adapter", tmp_path / "sum", "--limit", 8).status == 0
    recipe = load_recipe(str(trained / "recipe.yaml"))
    weights = {}
    for name, adapter in (("both", tmp_path / "sum"), ("one", trained / "adapter"), ("two", second / "adapter")):
        merge(MergeRequest(recipe, adapter, tmp_path / name))
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    base = base_weights()
    changed = [name for name in base if "_proj" in name]
    assert len(changed) == 35
    for name in changed:
        one, two, both = (weights[key][name].double() - base[name].double() for key in ("one", "two", "both"))
        torch.testing.assert_close(both, 0.5 * one + 1.5 * two, atol=2e-6, rtol=0)
        assert two.abs().max() > 1e-4
    heads = [load_file(own / "adapter" / WEIGHTS)["base_model.model.score.weight"] for own in (trained, second)]
    torch.testing.assert_close(weights["both"]["score.weight"], 0.25 * heads[0] + 0.75 * heads[1])


def base_weights() -> dict[str, torch.Tensor]:
    from reflora_cli.model.sources import find_source

    return load_file(Path(find_source("builtin:tiny-llama", None).location) / "model.safetensors")


def test_directory_tells_what_was_combined(trained: Path, second: Path, reflora: Reflora, tmp_path: Path) -> None:
    options = ("--how", "svd", "--rank", 2, "--head", second, "--output", tmp_path / "sum")
    outcome = reflora("combine", trained, second, *options, "--json")
    assert outcome.status == 0, outcome.err
    card = (tmp_path / "sum" / "README.md").read_text(encoding="utf-8")
    assert "| small | 1 |" in card
    assert "| second | 1 |" in card
    assert "score, from second" in card
    assert f"Truncation left out {outcome.json['lost']:.2%}" in card
    assert str(tmp_path) not in card
    record, own = (json.loads((at / "reflora.json").read_text()) for at in (tmp_path / "sum", second / "adapter"))
    assert record["combined"]["of"] == [{"adapter": "small", "weight": 1.0}, {"adapter": "second", "weight": 1.0}]
    assert {key: record[key] for key in ("base", "label_names", "saved_modules")} == {
        key: own[key] for key in ("base", "label_names", "saved_modules")
    }
    head = load_file(tmp_path / "sum" / WEIGHTS)["base_model.model.score.weight"]
    assert torch.equal(head, load_file(second / "adapter" / WEIGHTS)["base_model.model.score.weight"])
    assert (tmp_path / "sum" / "tokenizer.json").is_file()


@pytest.mark.parametrize("how", ["ties", "dare"])
def test_published_rules_run_with_any_layer(
    how: str, trained: Path, rescaled: Path, reflora: Reflora, tmp_path: Path
) -> None:
    output = tmp_path / how
    outcome = reflora("combine", trained, rescaled, "--how", how, "--density", 0.6, "--output", output, "--json")
    assert outcome.status == 0, outcome.err
    assert 0 < outcome.json["lost"] <= outcome.json["worst"] < 1
    assert reflora("eval", trained, "--adapter", output, "--limit", 8).status == 0


def test_merge_and_export_take_it_in_the_place_of_the_run_s_own(
    trained: Path, second: Path, reflora: Reflora, tmp_path: Path
) -> None:
    assert reflora("combine", trained, second, "--output", tmp_path / "sum").status == 0
    here = ("--adapter", tmp_path / "sum")
    assert reflora("merge", trained, *here, "--output", tmp_path / "merged").status == 0
    merge(MergeRequest(load_recipe(str(trained / "recipe.yaml")), tmp_path / "sum", tmp_path / "expected"))
    found, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "expected"))
    assert all(torch.equal(own, found[name]) for name, own in expected.items())
    for form in ("peft", "gguf-adapter", "onnx"):
        outcome = reflora("export", trained, "--format", form, *here, "--output", tmp_path / form)
        assert outcome.status == 0 or (form == "gguf-adapter" and "classifier" in outcome.err), outcome.err
    for name in ("merged", "peft", "onnx"):
        card = (tmp_path / name / "README.md").read_text(encoding="utf-8")
        assert "with `--how concat`: 1 times small and 1 times second." in card
        assert "Trained by" not in card
        assert "## Scores" not in card
    outcome = reflora("merge", trained, *here)
    assert outcome.status == 2
    assert "--output DIR" in outcome.err


def test_a_run_goes_on_from_a_combination(trained: Path, second: Path, reflora: Reflora, tmp_path: Path) -> None:
    assert reflora("combine", trained, second, "--output", tmp_path / "sum").status == 0
    recipe = tmp_path / "open.yaml"
    recipe.write_text("model: {name: 'builtin:tiny-llama', dtype: float32}\nmethod: {name: lora}\n"
                      "task: {name: builtin/entailment, max_length: 48}\ntrain: {steps: 2}\n")  # fmt: skip
    outcome = reflora("train", recipe, f"method.after={tmp_path / 'sum'}", *FEW[:2], "--output", tmp_path / "run")
    assert outcome.status == 0, outcome.err


WRONG = {
    "nothing there": (["{run}", "nowhere"], ["the adapter directory does not exist", "nowhere"]),
    "too few weights": (
        ["{run}", "{second}", "--weights", "1"],
        ["--weights must have one weight for each", "2 weights"],
    ),
    "no numbers": (["{run}", "--weights", "much"], ["these are no weights", "much"]),
    "not finite": (["{run}", "--weights", "nan"], ["a weight is not finite"]),
    "all zero": (["{run}", "--weights", "0"], ["all weights are 0"]),
    "no mean of heads": (["{run}", "{second}", "--weights=1,-1"], ["--weights sum to 0", "--head ADAPTER"]),
    "density": (["{run}", "--how", "ties", "--density", "1.5"], ["share of entries", "above 0, at most 1"]),
    "idle rank": (["{run}", "--rank", "4"], ["no effect with --how concat", "leave it out"]),
    "idle density": (["{run}", "--how", "svd", "--density", "0.5"], ["no effect with --how svd"]),
    "idle rows": (["{run}", "--rows", "8"], ["no effect with --how concat: no rows are read"]),
    "foreign head": (["{run}", "--head", "{second}"], ["an adapter that is not combined"]),
    "output": (["{run}", "--output", "{run}"], ["the output already exists"]),
    "no factors": (["{run}", "{dora}"], ["not a product of two factors", "--how svd"]),
    "the base itself": (["{full}", "{run}"], ["parameters of the base itself", "reflora merge"]),
    "other base": (["{run}", "{other}"], ["not trained on the same base", "sha256 feed"]),
    "other labels": (["{run}", "{labels}"], ["different labels", "entailment", "yes, no", "--head ADAPTER"]),
    "no head": (["{run}", "{headless}"], ["save different modules whole", "score and none"]),
    "a stranger": (["{run}", "{stranger}"], ["unexpected tensors", "odd.weight"]),
    "other shapes": (["{run}", "{narrow}"], ["different shapes", "module model.layers.0.mlp.down_proj"]),
    "weights of a search": (
        ["{run}", "--how", "search", "--weights", "1"],
        ["--weights has no effect with --how search"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_with_one_message(
    case: str, trained: Path, second: Path, rescaled: Path, reflora: Reflora, recipe: Path, tmp_path: Path
) -> None:
    arguments, expected = WRONG[case]
    places = {"run": trained, "second": second, "dora": rescaled}
    for name in ("other", "labels", "headless", "stranger", "narrow", "full"):
        if f"{{{name}}}" in arguments:
            places[name] = spoilt(name, trained, reflora, recipe, tmp_path)
    given = [text.format(**places) for text in arguments]
    output = [] if "--output" in given else ["--output", str(tmp_path / "out")]
    outcome = reflora("combine", *given, *output)
    text = " ".join(outcome.err.split())
    assert outcome.status == 2, outcome.err
    assert all(part in text for part in expected), outcome.err
    assert "Traceback" not in text
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def spoilt(name: str, trained: Path, reflora: Reflora, recipe: Path, tmp_path: Path) -> Path:
    """An adapter that does not go with the trained one."""
    if name == "full":
        quiet = ("method.name=full", "method.rank=8", "method.alpha=8", "method.refactor={}", "eval.at_start=false")
        return train(reflora, recipe, tmp_path / "full", "train.steps=2", *quiet)
    place = shutil.copytree(trained / "adapter", tmp_path / name)
    record, tensors = json.loads((place / "reflora.json").read_text()), load_file(place / WEIGHTS)
    config = json.loads((place / "adapter_config.json").read_text())
    match name:
        case "other":
            record["base"]["sha256"] = "feed"
        case "labels":
            record["label_names"] = ["yes", "no"]
        case "headless":
            config["modules_to_save"] = None
            del tensors["base_model.model.score.weight"]
        case "stranger":
            tensors["base_model.model.odd.weight"] = torch.zeros(2)
        case "narrow":
            key = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
            tensors[key] = tensors[key][:, :-1].contiguous()
    for file, value in (("reflora.json", record), ("adapter_config.json", config)):
        (place / file).write_text(json.dumps(value), encoding="utf-8")
    save_file(tensors, place / WEIGHTS)
    return place
