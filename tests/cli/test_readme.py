"""The README and the pages of docs/ are true: their commands run, recipes are valid, tables are complete."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import pytest

from reflora_cli.cli import app
from reflora_cli.cli.export import Format
from reflora_cli.comparing.command_line import plan_of
from reflora_cli.comparing.settings import checked_settings
from reflora_cli.methods.presets import PRESETS
from reflora_cli.methods.updates import RefLoRAUpdate, UpdateChoice
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.yaml_lines import parse_yaml
from reflora_cli.tasks.base import Mixture, PromptTask, SequenceTask
from reflora_cli.tasks.own import METRICS
from reflora_cli.tasks.registry import TASKS
from reflora_cli.tasks.text_scores import NAMES
from tests.cli.conftest import Reflora

ROOT = Path(__file__).parents[2]
FILES = ("README.md", *(f"docs/{name}.md" for name in (
    "runs", "data", "scoring", "methods", "compare", "serving", "gpus", "library", "measured",
)))  # fmt: skip
"""The README and the reference, in the README's order; `docs/log.md` tells of the past."""
PAGES = {file: (ROOT / file).read_text(encoding="utf-8") for file in FILES}
TEXT = "\n".join(PAGES.values())
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
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def section(page: str, title: str) -> str:
    """Return what stands under a title."""
    _, found, rest = PAGES[page].partition(f"\n## {title}\n")
    assert found, title
    return rest.partition("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the rows of tables that begin with a name."""
    lines = re.findall(r"^\| `.*$", text, re.MULTILINE)
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def table(page: str, head: str) -> list[list[str]]:
    """Return the rows of the table whose first column has the head."""
    _, found, rest = PAGES[page].partition(f"\n| {head} |")
    assert found, head
    return rows(rest.partition("\n\n")[0])


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_every_page_is_tested_and_in_the_index() -> None:
    assert {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} == {*FILES[1:], "docs/log.md"}
    index = re.findall(r"^\| \[(docs/\w+\.md)\]", section("README.md", "Documents"), re.MULTILINE)
    assert [file for file in index if file != "docs/log.md"] == [*FILES[1:]]


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
    lines = [line for line in "\n".join(blocks("sh")).splitlines() if line.startswith("reflora ")]
    commands = [shlex.split(line)[1:] for line in dict.fromkeys(lines)]  # pages begin with runs that others made
    assert {command[0] for command in commands} == {command.name for command in app.registered_commands}
    (tmp_path / "rows.csv").write_text("premise,hypothesis\nA cup is red.,A cup has a colour.\n", encoding="utf-8")
    for written in commands:
        command = written if written[0] in TELLING else affordable(written, data)
        outcome = reflora(*command)
        assert outcome.status == 0, (command, outcome.err)


def recipe_with(line: str) -> str:
    """Return the recipe that has the line, which is the same one wherever it is shown."""
    found = [block for block in blocks("yaml") if line in block]
    assert len({json.dumps(parse_yaml(block, line)[0]) for block in found}) == 1
    return found[0]


def put_tickets(place: Path) -> None:
    """Write the recipe that the README shows, and files such as it speaks of."""
    (place / "tickets.yaml").write_text(recipe_with("kind: classification"), encoding="utf-8")
    for name, count in (("tickets.csv", 90), ("new.csv", 20)):
        lines = [f"subject {i};it is {'red' if i % 3 else 'big'};{'colour' if i % 3 else 'size'}" for i in range(count)]
        (place / name).write_text("\n".join(["subject;body;category", *lines]), encoding="utf-8")


def put_chat(place: Path) -> None:
    """Write the recipe that the README shows of conversations, and a file of them."""
    (place / "chat.yaml").write_text(recipe_with("kind: chat"), encoding="utf-8")
    lines = [{"instruction": f"What color is cup {number}?", "output": "It is red."} for number in range(40)]
    (place / "chat.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def affordable(command: list[str], data: Mapping[str, Path]) -> list[str]:
    """The same command, on rows and models that are at hand."""
    rest = [part for part in command if not part.startswith("task.data=")]
    if command[1] == "tickets.yaml":
        return [*command, "model.name=builtin:tiny-llama"]
    if command[1] == "chat.yaml":
        return [
            *command,
            "model.name=builtin:tiny-llama",
            "task.template=plain",
            "task.max_length=64",
            "train.epochs=1",
        ]
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
    assert {*named, *re.findall(r"`make (\w+)`", TEXT)} <= targets


def test_recipe_blocks_are_valid_recipes(tmp_path: Path) -> None:
    methods = []
    recipes = [block for block in blocks("yaml") if not block.startswith("recipe:")]
    for number, recipe in enumerate(recipes):
        path = tmp_path / f"{number}.yaml"
        path.write_text(recipe, encoding="utf-8")
        methods.append(load_recipe(str(path), []).method.name)
    assert sorted(methods) == ["lora"] * 5 + ["reflora"]


def test_the_plan_block_is_a_valid_plan(tmp_path: Path) -> None:
    (plan,) = [block for block in blocks("yaml") if block.startswith("recipe:")]
    (tmp_path / "plan.yaml").write_text(plan, encoding="utf-8")
    settings = checked_settings(plan_of(str(tmp_path / "plan.yaml"), []))
    assert [setting.name for setting in settings] == ["lora", "dora", "reflora"]


def test_the_scores_of_every_kind_are_in_the_table() -> None:
    for kind, metrics in {**METRICS, "generation": [name for name in NAMES if name != "cut"]}.items():
        (line,) = re.findall(rf"^\| `{kind}` \| (.*) \|$", PAGES["docs/data.md"], flags=re.MULTILINE)
        assert [name for name in re.findall(r"\w+", line) if name in metrics] == list(metrics)


def test_the_full_form_of_an_update_rule_is_written_out() -> None:
    (full,) = re.findall(r"^`update: (\{.*\})`$", PAGES["docs/methods.md"], flags=re.MULTILINE)
    assert parse_yaml(full, "docs/methods.md")[0] == RefLoRAUpdate().model_dump()


def test_the_fields_of_every_update_rule_are_in_the_table() -> None:
    shown = {rule: names(fields) for rules, fields in table("docs/methods.md", "rule") for rule in names(rules)}
    records = [record() for record in get_args(get_args(UpdateChoice)[0])]
    kinds = {record.kind: [field for field in record.model_dump() if field != "kind"] for record in records}
    assert kinds == {rule: fields for rule, fields in shown.items() if rule != "stella"}


def test_every_preset_is_in_both_tables() -> None:
    assert sorted(name.strip("`") for name, *_ in table("docs/methods.md", "preset")) == sorted(PRESETS)
    groups = section("README.md", "Methods").partition("|---|")[2]
    assert sorted(names(groups)) == sorted(PRESETS)


def test_every_export_format_is_in_both_tables() -> None:
    for page in ("README.md", "docs/serving.md"):
        shown = [name for name, *_ in table(page, "`export --format`")]
        assert shown == [f"`{format.value}`" for format in Format], page


def test_the_readme_has_the_columns_of_every_task() -> None:
    kinds, *others = rows(section("README.md", "Tasks"))
    assert {name.removeprefix("task.kind: ") for name in names(kinds[0])} == {*METRICS, "generation", "chat"}
    columns = {name: cells.split(", ") for named, cells in others for name in names(named)}
    assert columns.keys() == {name for name in TASKS if not name.startswith("commonsense/")}
    for name, task in TASKS.items():
        shown = columns["commonsense" if name.startswith("commonsense") else name]
        assert shown == list((task.parts[0] if isinstance(task, Mixture) else task).columns), name


def test_the_columns_of_every_task_are_in_the_table() -> None:
    columns_of = {name: cells for name, *cells in table("docs/data.md", "task")}
    for name, whole in TASKS.items():
        columns, labels = columns_of[
            "`commonsense`, `commonsense/...`" if name.startswith("commonsense") else f"`{name}`"
        ]
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
    assert {name.strip("`") for name in columns_of if "," not in name} | {"commonsense"} <= {*TASKS}


def test_the_prompt_of_instruct_is_the_one_shown() -> None:
    (shown,) = re.findall(r"```\n(Below is .*?)\n```", PAGES["docs/data.md"], flags=re.DOTALL)
    task = TASKS["instruct"]
    assert isinstance(task, PromptTask)
    row = {"instruction": "{instruction}", "output": "done"}
    assert task.example(row).prompt == shown + "\n"
    with_input = task.example(row | {"input": "{input}"}).prompt
    (first,) = re.findall(r"the first line says `(.*?)`", PAGES["docs/data.md"])
    assert first in with_input
    assert "\n### Input:\n{input}\n\n### Response:" in with_input
