"""Every task has a kind, and one place of the program tells kinds apart."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
import transformers

import reflora_cli
from reflora_cli.ground.errors import InputError
from reflora_cli.model.sources import find_source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import ModelSection
from reflora_cli.tasks.base import PromptTask
from reflora_cli.tasks.registry import TASKS, find_task
from tests.unit.recipe_texts import GOOD, load, put

PACKAGE = Path(reflora_cli.__file__).parent
KINDS = {"SequenceTask", "PromptTask", "Mixture"}


@pytest.mark.parametrize("name", TASKS)
def test_the_base_of_every_task_is_loaded_by_its_kind(name: str) -> None:
    """transformers loads the tiny model with as many outputs as the task has labels, or with its language head."""
    kind = kind_of(TASKS[name])
    location = find_source("builtin:tiny-llama", None).location
    model = getattr(transformers, kind.auto_class).from_pretrained(location, **kind.base_arguments)
    outputs = max(1, len(TASKS[name].label_names))
    is_classifier = kind.peft_type == "SEQ_CLS"
    assert kind.peft_type in {own.value for own in peft.TaskType}
    assert bool(model.can_generate()) is not is_classifier
    assert (model.config.num_labels if is_classifier else 1) == outputs
    own = kind.load_base(ModelSection(name="builtin:tiny-llama"), None, torch.float32, seed=0)
    assert type(own.model) is type(model)
    assert bool(own.head) is is_classifier
    assert bool(kind.protocols) is not is_classifier


def test_the_chat_template_of_a_task_is_that_of_its_tokenizer() -> None:
    """A task without one leaves the tokenizer as it is."""
    section = ModelSection(name="builtin:tiny-llama")
    instruct = find_task("instruct")
    assert isinstance(instruct, PromptTask)
    assert not instruct.by_chat_template
    plain = kind_of(instruct).load_base(section, None, torch.float32, seed=0)
    assert (plain.tokenizer.chat_template, plain.lost_template) == (None, False)
    told = replace(instruct, by_chat_template=True, chat_template="{{ messages }}")
    base = kind_of(told).load_base(section, None, torch.float32, seed=0)
    assert (base.tokenizer.chat_template, base.lost_template) == ("{{ messages }}", False)
    assert base.with_chat_template("{{ bos_token }}").lost_template


def told_apart(tree: ast.AST) -> set[str]:
    """The kinds that are matched or tested for."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.MatchClass):
            found |= {own.id for own in ast.walk(node.cls) if isinstance(own, ast.Name)}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            found |= {own.id for own in ast.walk(node.args[1]) if isinstance(own, ast.Name)}
    return found & KINDS


def test_one_file_tells_kinds_apart() -> None:
    """Beside the one that describes their records to people, for which nothing is loaded."""
    found = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if told_apart(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found == {"objectives/pick.py", "tasks/describe.py"}


def test_settings_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    settings = ("task.train_on_prompt=true", "train.label_smoothing=0.1")
    with pytest.raises(InputError) as refused:
        kind_of(find_task("glue/cola")).load_examples(load(put(tmp_path, GOOD), *settings))
    assert [problem.where for problem in refused.value.problems] == [own.partition("=")[0] for own in settings]
    section = ModelSection(name="builtin:tiny-llama", classifier_dropout=0.1)
    with pytest.raises(InputError, match="classifier_dropout"):
        kind_of(find_task("instruct")).load_base(section, None, torch.float32, seed=0)


@pytest.mark.parametrize(
    ("name", "held_out", "expected"),
    [
        ("instruct", "5", True),
        ("instruct", "null", False),
        ("builtin/questions", "5", False),
        ("[instruct, builtin/questions]", "5", False),
        ("nlg/e2e", "5", False),
        ("glue/cola", "null", False),
        ("glue/cola", "5", True),
    ],
)
def test_held_out_rows_are_scored_where_there_is_only_a_loss_and_of_labels(
    name: str, held_out: str, expected: bool, tmp_path: Path
) -> None:
    recipe = load(put(tmp_path, GOOD), f"task.name={name}", f"task.validation_rows={held_out}")
    assert kind_of(find_task(recipe.task.name)).scores_held_out(recipe) is expected
