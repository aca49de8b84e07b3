"""Conversations from a file to a merged model, and what is refused of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from reflora_cli.model.sources import find_source
from tests.cli.conftest import Outcome, Reflora, records, step_losses

COLORS = ("red", "blue", "green", "small")
TRAIN = {"steps": 8, "batch_size": 4, "learning_rate": 1e-2, "checkpoint_every": 4}
TEMPLATE = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}" \
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"  # fmt: skip


def rows_of(count: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "system", "content": "Answer briefly."},
                {"role": "user", "content": f"What color is cup {number}?"},
                {"role": "assistant", "content": f"It is {COLORS[number % 4]}."},
                {"role": "user", "content": "Thank you."},
                {"role": "assistant", "content": "You are welcome."},
            ]
        }
        for number in range(count)
    ]


def put(folder: Path, rows: list[Any], name: str = "train.jsonl") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(folder: Path, data: Path, **task: Any) -> Path:
    values = {
        "model": {"name": "builtin:tiny-llama", "dtype": "float32"},
        "method": {"name": "lora", "rank": 4},
        "task": {"kind": "chat", "data": str(data), "template": "plain", "validation": "25%", "max_length": 96, **task},
        "train": TRAIN,
        "eval": {"every": 4, "max_new_tokens": 8},
    }
    path = folder / "chat.yaml"
    path.write_text(yaml.safe_dump({**values, "task": {k: v for k, v in values["task"].items() if v is not None}}))  # type: ignore[attr-defined]
    return path


def model_with(folder: Path, template: str) -> Path:
    """The tiny model with a chat template of its own."""
    place = folder / "model"
    shutil.copytree(find_source("builtin:tiny-llama", None).location, place)
    tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(place)
    return place


def weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_from_a_file_to_a_merged_model(reflora: Reflora, tmp_path: Path) -> None:
    source = recipe(tmp_path, put(tmp_path, rows_of()))
    run, cut = tmp_path / "run", tmp_path / "cut"
    trained = reflora("train", source, "eval.samples=2", "--output", run, "--json")
    assert trained.status == 0, trained.err
    assert "messages" in trained.err
    assert step_losses(run)
    shown = records(run, "sample")
    assert [(own["step"], own["expected"]) for own in shown] == [(4, "You are welcome.")] * 2 + [
        (8, "You are welcome.")
    ] * 2
    scored = reflora("eval", run, "--json")
    assert scored.status == 0, scored.err
    line = scored.json["tasks"]["validation"]
    assert (line["rows"], line["dropped"]) == (6, 0)
    assert line["loss"] == pytest.approx(trained.json["scores"]["validation"]["loss"], rel=1e-5)
    assert [own["prompt"] for own in scored.json["samples"]["validation"]] == [own["prompt"] for own in shown[:2]]
    merged = reflora("merge", run, "--output", tmp_path / "merged")
    assert merged.status == 0, merged.err
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "checkpoints" / "step-000008")
    (cut / "results.json").unlink()
    (cut / "adapter" / "adapter_model.safetensors").unlink()
    resumed = reflora("train", source, "eval.samples=2", "--output", cut, "--resume", "--json")
    assert resumed.status == 0, resumed.err
    assert weights(cut) == weights(run)
    assert resumed.json["scores"] == trained.json["scores"]
    assert records(cut, "sample") == shown


def test_the_text_of_a_file_stays_with_the_run(reflora: Reflora, tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(TEMPLATE, encoding="utf-8")
    source = recipe(tmp_path, put(tmp_path, rows_of()), template=str(file))
    run = tmp_path / "run"
    trained = reflora("train", source, "train.steps=4", "--output", run, "--json")
    assert trained.status == 0, trained.err
    file.write_text("gone", encoding="utf-8")
    assert yaml.safe_load((run / "recipe.yaml").read_text())["task"]["template"] == TEMPLATE
    scored = reflora("eval", run, "--json")
    assert scored.json["tasks"]["validation"]["loss"] == pytest.approx(
        trained.json["scores"]["validation"]["loss"], rel=1e-5
    )


def test_a_template_in_the_place_of_the_tokenizers_is_said(reflora: Reflora, tmp_path: Path) -> None:
    model = model_with(tmp_path, TEMPLATE)
    source = recipe(tmp_path, put(tmp_path, rows_of()))
    name = f"model.name={model}"
    other = reflora("train", source, name, "--dry-run")
    assert (other.status, "plain, instead of the tokenizer's own" in other.err) == (0, True), other.err
    own = reflora("train", source, name, "task.template=null", "--dry-run")
    assert (own.status, "the tokenizer's" in own.err) == (0, True), own.err


def test_a_dry_run_shows_what_is_learned(reflora: Reflora, tmp_path: Path) -> None:
    source = recipe(tmp_path, put(tmp_path, rows_of()))
    shown = reflora("train", source, "--dry-run")
    assert shown.status == 0, shown.err
    (line,) = [line for line in shown.err.splitlines() if line.startswith("Assistant:[[ It is")]
    assert line.startswith("Assistant:[[ It is ")
    assert line.rstrip().endswith("<eos>]]")
    everything = reflora("train", source, "task.train_on=all", "--dry-run")
    assert "[[" in everything.err
    assert "Assistant: It is" in everything.err
    questions = reflora("train", "quickstart-commonsense", "--dry-run")
    assert "<eos>]]" in questions.err
    labels = reflora("train", "quickstart", "--dry-run")
    assert (labels.status, "[[" in labels.err) == (0, False)


def test_instructions_of_a_chat_model_need_a_choice(reflora: Reflora, tmp_path: Path) -> None:
    data = put(tmp_path, [{"instruction": f"Say {word}.", "output": f"{word}."} for word in COLORS * 6])
    model = model_with(tmp_path, TEMPLATE)
    source = recipe(tmp_path, data, kind=None, name="instruct", template=None, validation=None, validation_rows=4)
    assert reflora("train", source, "--dry-run").status == 0  # a model without a chat template
    name = f"model.name={model}"
    asked = reflora("train", source, name, "--dry-run")
    assert asked.status == 2
    assert "task.prompt=template puts them as turns" in " ".join(asked.err.split())
    assert "task.prompt=alpaca" in asked.err
    by_template = reflora("train", source, name, "task.prompt=template", "--dry-run")
    assert by_template.status == 0, by_template.err
    assert "user: Say red.<eos>" in by_template.err.replace("<eos> ", "<eos>")
    alpaca = reflora("train", source, name, "task.prompt=alpaca", "--dry-run")
    assert "### Instruction:" in alpaca.err


def test_a_run_that_is_older_than_the_choice_goes_on(reflora: Reflora, tmp_path: Path) -> None:
    """Its recipe does not have the key, and its rows were put by Alpaca's wording."""
    data = put(tmp_path, [{"instruction": f"Say {word}.", "output": f"{word}."} for word in COLORS * 6])
    model, run = model_with(tmp_path, TEMPLATE), tmp_path / "run"
    source = recipe(tmp_path, data, kind=None, name="instruct", template=None, validation=None, validation_rows=4)
    began = reflora("train", source, f"model.name={model}", "task.prompt=alpaca", "--output", run, "--json")
    assert began.status == 0, began.err
    values = yaml.safe_load((run / "recipe.yaml").read_text())
    for key in ("prompt", "template", "train_on"):
        del values["task"][key]
    del values["eval"]["samples"]
    (run / "recipe.yaml").write_text(yaml.safe_dump(values))
    loss = began.json["scores"]["validation"]["loss"]
    assert reflora("eval", run, "--json").json["tasks"]["validation"]["loss"] == pytest.approx(loss, rel=1e-5)
    assert reflora("merge", run, "--output", tmp_path / "merged").status == 0
    (run / "results.json").unlink()
    shutil.rmtree(run / "checkpoints")
    resumed = reflora("train", run / "recipe.yaml", "--output", run, "--resume", "--json")
    assert resumed.status == 0, resumed.err
    assert resumed.json["scores"]["validation"]["loss"] == loss


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
Case = Callable[[Reflora, Path], Outcome]


def with_rows(*rows: Any) -> Case:
    def run(reflora: Reflora, folder: Path) -> Outcome:
        data = put(folder, [*rows_of(8), *rows])
        return reflora("train", recipe(folder, data), "--output", folder / "new")

    return run


def with_task(*settings: str, data: list[Any] | None = None, **task: Any) -> Case:
    def run(reflora: Reflora, folder: Path) -> Outcome:
        source = recipe(folder, put(folder, data or rows_of(8)), **task)
        return reflora("train", source, *settings, "--output", folder / "new")

    return run


def with_file(text: str) -> Case:
    def run(reflora: Reflora, folder: Path) -> Outcome:
        (folder / "own.jinja").write_text(text, encoding="utf-8")
        source = recipe(folder, put(folder, rows_of(8)), template=str(folder / "own.jinja"))
        return reflora("train", source, "--output", folder / "new")

    return run


CASES: dict[str, tuple[Case, tuple[str, ...]]] = {
    "no role": (with_rows({"messages": [{"content": "a"}, ANSWER]}), ("row 9", "message 1 has no role")),
    "unknown role": (with_rows({"messages": [{"role": "usr", "content": "a"}, ANSWER]}), ("row 9", "did you mean")),
    "ends with a message of the user": (
        with_rows({"messages": [USER, ANSWER, USER]}),
        ("row 9", "ends with a message of the user"),
    ),
    "no messages": (with_rows({"messages": []}), ("row 9", "has no messages")),
    "mixed layouts": (with_rows({"instruction": "a", "output": "b"}), ("several layouts", "train.jsonl")),
    "no layout": (with_task(data=[{"question": "a"}]), ("no known layout", "question")),
    "no template": (with_task(template=None), ("no chat template", "chatml", "llama3", "plain", "file")),
    "tokens that are absent": (with_task(template="chatml"), ("<|im_end|>", "task.template=plain")),
    "unknown template": (with_task(template="chatlm"), ("task.template", "did you mean 'chatml'")),
    "a file that is not there": (with_task(template="none.jinja"), ("none.jinja", "a file with a Jinja template")),
    "a file without a template": (with_file("hello"), ("own.jinja", "no chat template")),
    "a broken template": (with_file("{% for m in messages %}"), ("own.jinja", "not valid Jinja")),
    "a template that refuses": (with_file("{{ raise_exception('never so') }}"), ("never so", "conversation 1 of 6")),
    "a template that divides by zero": (with_file("{{ 1 / 0 }}"), ("refuses the conversation", "division by zero")),
    "a template that counts too far": (with_file("{% for i in range(10 ** 9) %}{% endfor %}"), ("Range too big",)),
    "a template without an end": (
        with_file("{% macro own() %}{{ own() }}{% endmacro %}{{ own() }}"),
        ("refuses the conversation", "recursion"),
    ),
    "a template that leaves texts out": (with_file("{{ messages[1].content }}"), ("leaves out", "message 1")),
    "a template of a task that is no conversation": (
        with_task("task.name=builtin/questions", kind=None, validation=None),
        ("template", "task.kind=chat"),
    ),
    "a template of labels": (with_task(kind="classification"), ("template", "only for conversations")),
    "a label of conversations": (with_task(label="a"), ("label", "task.label is not for task.kind=chat")),
    "train_on_prompt": (with_task(train_on_prompt=True), ("task.train_on=all",)),
    "rows held out twice": (with_task(validation_rows=3), ("validation", "validation_rows")),
    "an unknown train_on": (with_task(train_on="answer"), ("task.train_on", "answers")),
    "a prompt of conversations": (with_task(prompt="alpaca"), ("prompt", "task.kind=chat")),
    "a prompt of questions": (
        with_task("task.name=builtin/questions", kind=None, validation=None, template=None, prompt="alpaca"),
        ("task.prompt", "builtin/questions"),
    ),
    "too short": (with_task(max_length=12), ("task.max_length", "6 of 6")),
    "samples of labels": (
        lambda reflora, folder: reflora("train", "quickstart", "eval.samples=1", "--output", folder / "new"),
        ("eval.samples", "builtin/entailment"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_one_message(name: str, reflora: Reflora, tmp_path: Path) -> None:
    case, words = CASES[name]
    outcome = case(reflora, tmp_path)
    text = " ".join(outcome.err.split())
    assert outcome.status == 2, outcome.err
    assert not [word for word in words if word not in text], outcome.err
    assert not (tmp_path / "new").exists()
    assert outcome.err.count("Wrong input") == 1


def test_two_answers_in_a_row_are_the_templates_to_allow(reflora: Reflora, tmp_path: Path) -> None:
    data = put(tmp_path, [*rows_of(8), {"messages": [USER, ANSWER, ANSWER]}])
    allowed = reflora("train", recipe(tmp_path, data), "--dry-run")
    assert allowed.status == 0, allowed.err
    (tmp_path / "own.jinja").write_text(
        "{% for m in messages %}{% if loop.previtem and loop.previtem.role == m.role %}"
        "{{ raise_exception('roles alternate') }}{% endif %}{{ m.role + m.content + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant' }}{% endif %}"
    )
    refused = reflora("train", recipe(tmp_path, data, template=str(tmp_path / "own.jinja")), "--dry-run")
    assert (refused.status, "roles alternate" in refused.err) == (2, True), refused.err
