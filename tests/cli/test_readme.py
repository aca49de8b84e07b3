"""The README is true: its commands run, its recipe is valid, its tables are complete."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pytest

from reflora_cli.cli import app
from reflora_cli.cli.export import Format
from reflora_cli.comparing.command_line import plan_of
from reflora_cli.comparing.settings import checked_settings
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.updates import RefLoRAUpdate
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.yaml_lines import parse_yaml
from reflora_cli.tasks.base import Mixture, PromptTask, SequenceTask
from reflora_cli.tasks.own import METRICS
from reflora_cli.tasks.registry import TASKS
from reflora_cli.tasks.text_scores import NAMES
from tests.cli.conftest import Reflora

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SMALLER = ["task.max_train_rows=96", "task.max_eval_rows=24", "train.epochs=1", "method.refactor.warmup_steps=2",
           "train.warmup_steps=1"]  # fmt: skip
"""The quickstart's own size takes a minute; its commands are the same on fewer rows."""
LOCAL = [
    "model.name=builtin:tiny-llama",
    "model.classifier_dropout=null",
    "method.targets=all-linear",
    "task.max_length=64",
    "method.refactor.warmup_steps=2",
    "train.warmup_steps=1",
    "--dry-run",
]
"""DeBERTa lies on the hub: these commands are checked up to the first step, on a local model."""
LOCAL_LANGUAGE = [
    "model.name=builtin:tiny-llama",
    "model.dtype=float32",
    "method.refactor.warmup_steps=2",
    "train.warmup_steps=1",
    "task.validation_rows=8",
    "train.epochs=1",
]
"""So do Llama and Qwen: these commands run on a local model and few rows."""
LOCAL_TEXTS = [
    "model.name=builtin:tiny-llama",
    "method.targets=all-linear",
    "task.max_length=64",
    "train.warmup_steps=1",
    "train.epochs=1",
    "eval.num_beams=2",
    "eval.max_new_tokens=8",
]
"""So does GPT-2."""

TELLING = ("doctor", "list", "show")
"""The commands that only tell what there is: they run as they are written."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_reflora_commands_run_in_order(
    reflora: Reflora,
    tmp_path: Path,
    small_glue: Path,
    small_commonsense: Path,
    small_nlg: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = {"glue": small_glue, "commonsense": small_commonsense, "nlg": small_nlg}
    monkeypatch.chdir(tmp_path)
    put_tickets(tmp_path)
    put_chat(tmp_path)
    commands = [shlex.split(line)[1:] for line in "\n".join(blocks("sh")).splitlines() if line.startswith("reflora ")]
    assert {command[0] for command in commands} == {command.name for command in app.registered_commands}
    (tmp_path / "rows.csv").write_text("premise,hypothesis\nA cup is red.,A cup has a colour.\n", encoding="utf-8")
    for written in commands:
        command = written if written[0] in TELLING else affordable(written, data)
        outcome = reflora(*command)
        assert outcome.status == 0, (command, outcome.err)


def recipe_with(line: str) -> str:
    """Return the recipe that has the line."""
    (found,) = [block for block in blocks("yaml") if f"  {line}" in block]
    return found


def put_tickets(place: Path) -> None:
    """Write the recipe that the README shows, and files such as it speaks of."""
    (place / "tickets.yaml").write_text(recipe_with("kind: classification"), encoding="utf-8")
    for name, count in (("tickets.csv", 90), ("new.csv", 20)):
        rows = [f"subject {i};it is {'red' if i % 3 else 'big'};{'colour' if i % 3 else 'size'}" for i in range(count)]
        (place / name).write_text("\n".join(["subject;body;category", *rows]), encoding="utf-8")


def put_chat(place: Path) -> None:
    """Write the recipe that the README shows of conversations, and a file of them."""
    (place / "chat.yaml").write_text(recipe_with("kind: chat"), encoding="utf-8")
    rows = [{"instruction": f"What color is cup {number}?", "output": "It is red."} for number in range(40)]
    (place / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def affordable(command: list[str], data: Mapping[str, Path]) -> list[str]:
    """The same command, on rows and models that are at hand."""
    rest = [part for part in command if not part.startswith("task.data=")]
    if command[1] == "tickets.yaml":
        return [*command, "model.name=builtin:tiny-llama"]
    if command[1] == "chat.yaml":
        return [*command, "model.name=builtin:tiny-llama", "task.max_length=64", "train.epochs=1"]
    family = command[1].partition("/")[0]
    if family in data:
        models = {"glue": LOCAL, "commonsense": LOCAL_LANGUAGE, "nlg": LOCAL_TEXTS}
        return [*rest, *models[family], f"task.data={data[family]}"]
    if "--task" in command:
        return [*rest, "eval.batch_size=16", "eval.num_beams=1"]
    if command[0] == "eval":
        return [*command, "--limit", "24"]
    is_trained = command[0] in ("train", "compare") and "--dry-run" not in command
    return [*command, *SMALLER] if is_trained else command


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"^make (\w+)$", "\n".join(blocks("sh")), flags=re.MULTILINE))
    assert named == {"quickstart", "test"}
    assert {*named, *re.findall(r"`make (\w+)`", README)} <= targets


def test_recipe_blocks_are_valid_recipes(tmp_path: Path) -> None:
    methods = []
    recipes = [block for block in blocks("yaml") if not block.startswith("recipe:")]
    for number, recipe in enumerate(recipes):
        path = tmp_path / f"{number}.yaml"
        path.write_text(recipe, encoding="utf-8")
        methods.append(load_recipe(str(path), []).method.name)
    assert methods == ["lora", "lora", "lora", "reflora"]


def test_the_plan_block_is_a_valid_plan(tmp_path: Path) -> None:
    (plan,) = [block for block in blocks("yaml") if block.startswith("recipe:")]
    (tmp_path / "plan.yaml").write_text(plan, encoding="utf-8")
    settings = checked_settings(plan_of(str(tmp_path / "plan.yaml"), []))
    assert [setting.name for setting in settings] == ["lora", "dora", "reflora"]


def test_the_scores_of_every_kind_are_in_the_table() -> None:
    for kind, metrics in {**METRICS, "generation": [name for name in NAMES if name != "cut"]}.items():
        (line,) = re.findall(rf"^\| `{kind}` \| (.*) \|$", README, flags=re.MULTILINE)
        assert [name for name in re.findall(r"\w+", line) if name in metrics] == list(metrics)


def test_the_full_form_of_an_update_rule_is_written_out() -> None:
    (full,) = re.findall(r"^`update: (\{.*\})`$", README, flags=re.MULTILINE)
    assert parse_yaml(full, "README.md")[0] == RefLoRAUpdate().model_dump()


def test_every_preset_is_in_the_table() -> None:
    methods = README.partition("## Methods")[2]
    assert set(re.findall(r"^\| `([^`]+)` \|", methods, flags=re.MULTILINE)) == set(PRESETS)


def test_every_export_format_is_in_the_table() -> None:
    exports = README.partition("## Merging and exporting")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `([^` ]+)` \|", exports, flags=re.MULTILINE)) == {format.value for format in Format}


def test_the_columns_of_every_task_are_in_the_table() -> None:
    data = README.partition("| task | columns |")[2].partition("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| `.*$", data, re.MULTILINE)
    ]
    table = {name: cells for name, *cells in rows}
    for name, whole in TASKS.items():
        columns, labels = table["`commonsense`, `commonsense/...`" if name.startswith("commonsense") else f"`{name}`"]
        task = whole.parts[0] if isinstance(whole, Mixture) else whole
        assert re.sub(r" \(.*?\)", "", columns).split(", ") == list(task.columns), name
        if isinstance(task, SequenceTask):
            assert labels == (", ".join(task.label_names) or "{:g} to {:g}".format(*task.label_range or ())), name
        else:
            kinds = {"": str, "list": list, "number": int, "may be empty": str}
            said = dict(re.fullmatch(r"(\w+)(?: \((.*)\))?", part).groups(default="") for part in columns.split(", "))  # type: ignore[union-attr]
            assert {column: kinds[said[column]] for column in task.fields} == dict(task.fields), name
            assert [column for column in said if said[column] == "may be empty"] == [
                *task.optional,
                *filter(None, [task.answer]),
            ], name
    assert {name.strip("`") for name in table if "," not in name} | {"commonsense"} <= {*TASKS}


def test_the_prompt_of_instruct_is_the_one_shown() -> None:
    (shown,) = re.findall(r"```\n(Below is .*?)\n```", README, flags=re.DOTALL)
    task = TASKS["instruct"]
    assert isinstance(task, PromptTask)
    row = {"instruction": "{instruction}", "output": "done"}
    assert task.example(row).prompt == shown + "\n"
    with_input = task.example(row | {"input": "{input}"}).prompt
    (first,) = re.findall(r"the first line says `(.*?)`", README)
    assert first in with_input
    assert "\n### Input:\n{input}\n\n### Response:" in with_input
