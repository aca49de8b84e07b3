"""Ask a language model for the answers to new rows.

A row that has all columns of a task with candidates is answered by the recipe's protocol, as `reflora eval` does. Any
other row is an instruction: it is put into the task's prompt, or by the chat template that was trained, and the model
writes what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from reflora_cli.data.check_prompts import prompt_examples
from reflora_cli.data.read import Table
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.objectives.asking import Answer, Answerer, Asking, Question
from reflora_cli.objectives.objective import Objective
from reflora_cli.objectives.scorer import Scorer
from reflora_cli.objectives.writer import writer_of
from reflora_cli.recipe.sections import Recipe
from reflora_cli.tasks.answers import Prediction
from reflora_cli.tasks.base import Answers, LanguageTask, PromptTask
from reflora_cli.tasks.chat import ASKED, ASKING, conversation_text
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.prompts import Template
from reflora_cli.tasks.wording import Wording


def part_asked(task: LanguageTask) -> PromptTask:
    """Return the task whose prompt an instruction gets. Raises InputError for a mixture of tasks that ask in several
    ways.
    """
    first = task.joint or task.parts[0]
    if any((part.template, tuple(part.fields)) != (first.template, tuple(first.fields)) for part in task.parts):
        what, found = (
            "the model was trained on several tasks with different prompts",
            ", ".join(p.name for p in task.parts),
        )
        raise InputError(Problem(what, "task.name", found, "one of them", f"--task {task.parts[0].name}"))
    return first


def asked_by_columns(task: PromptTask, wording: Wording) -> PromptTask:
    """Return the task of writing an answer after the prompt that the wording makes of a row's columns."""

    def example(row: Row) -> PromptExample:
        prompt = wording.fill(row)
        return PromptExample(prompt, "", prompt)

    return replace(unanswered(task), fields=dict.fromkeys(wording.columns, str), example=example)


def unanswered(task: PromptTask) -> PromptTask:
    """Return the task without anything that is read of its answers."""
    return replace(task, answer="", references="", keys={}, answers=Answers.LOSS)


def worded(task: PromptTask, wording: Template) -> PromptTask:
    """Return the task of writing an answer after an instruction in this wording: the first of the task's columns,
    with the further input of its optional ones.
    """
    asked = next(iter(task.fields))

    def example(row: Row) -> PromptExample:
        context = "\n".join(text for name in task.optional if (text := row.get(name)))
        prompt = wording.fill(row[asked], context)
        return PromptExample(prompt, "", prompt)

    alone = replace(unanswered(task), fields={asked: str}, example=example, template=wording, wording=None)
    return replace(alone, layouts=())


def spoken(task: PromptTask) -> PromptTask:
    """Return a task of `worded` whose instructions are messages of the user, put by the tokenizer's chat template."""

    def example(row: Row) -> PromptExample:
        own = task.example(row)
        message = {"role": "user", "content": own.generation_prompt}
        return replace(own, conversation=conversation_text([message], None))

    return replace(task, example=example)


@final
class LanguageAsking(Asking):
    """Instructions, or rows with the candidates of their answers. wording: another text around an instruction than the
    task's own, for which candidates are not read.
    """

    def __init__(self, task: LanguageTask, wording: Template | None) -> None:
        part = part_asked(task)
        self.by_chat_template = part.by_chat_template and wording is None
        if wording is None and part.wording is not None:
            self.plain = asked_by_columns(part, part.wording)
        else:
            plain = worded(part, wording or (ASKED if part.by_chat_template else part.template))
            self.plain = spoken(plain) if self.by_chat_template else plain
        self.whole = part if wording is None and part.answers is Answers.CHOSEN else self.plain
        self.columns, self.optional = tuple(self.plain.fields), self.plain.optional
        self.conversations = part.laid_out(ASKING) if self.by_chat_template else None

    @property
    def wanted(self) -> tuple[str, ...]:
        further = ASKING.columns if self.conversations else ()
        return tuple(dict.fromkeys((*self.whole.columns, *further)))

    def questions(self, table: Table) -> list[Question]:
        if self.conversations is not None and "messages" in table.columns:
            examples = prompt_examples(table, self.conversations)
            return [Question({"messages": example.prompt}, example) for example in examples]
        task = self.whole if all(name in table.columns for name in self.whole.fields) else self.plain
        examples = prompt_examples(table, task)
        shown = [name for name in (*self.columns, *self.optional) if name in table.columns]
        rows = zip(*(table.columns[name] for name in shown), strict=True)
        return [
            Question({name: cell or "" for name, cell in zip(shown, cells, strict=True)}, example)
            for cells, example in zip(rows, examples, strict=True)
        ]

    def answerer(self, recipe: Recipe, objective: Objective[Any]) -> LanguageAnswerer:
        assert objective.scorer is not None
        writer = writer_of(objective.scorer, recipe.eval, objective.base, objective.compute)
        template = str(objective.base.tokenizer.chat_template) if self.by_chat_template else ""
        return LanguageAnswerer(self.whole, objective.scorer, writer, template)


@final
class LanguageAnswerer(Answerer):
    """A language model, which answers with the `answer` that it wrote, the `label` that was chosen or understood, and
    the `scores` of candidates where a protocol compares them.
    """

    def __init__(self, task: PromptTask, scorer: Scorer, writer: Scorer, chat_template: str = "") -> None:
        """chat_template: the text of the template that puts the questions; empty if none does."""
        self.task, self.scorer, self.writer, self.chat_template = task, scorer, writer, chat_template

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        examples: list[PromptExample] = [question.example for question in questions]
        scorer = self.scorer if examples[0].candidates else self.writer
        predictions = scorer.predict(self.task, examples)
        return [Answer(self.values(example, own), own.cut) for example, own in zip(examples, predictions, strict=True)]

    def values(self, example: PromptExample, found: Prediction) -> dict[str, Any]:
        written = {} if found.output is None else {"answer": found.output}
        labelled = {"label": found.parsed} if example.labels or self.task.pattern else {}
        return {**written, **labelled, **({} if found.scores is None else {"scores": found.scores})}

    def settings(self) -> dict[str, object]:
        template, wording = self.task.template, self.task.wording
        prompts = [template.alone, template.with_input]
        if wording is not None and not wording.is_instruction:
            prompts = [wording.text]
        chat = {"chat_template": self.chat_template} if self.chat_template else {}
        return {"scored": self.scorer.settings(), "written": self.writer.settings(), "prompts": prompts, **chat}
