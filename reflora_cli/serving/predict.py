"""Ask a trained model about new rows: the function that `reflora predict` calls."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from reflora_cli.console.reporter import Reporter, Tell, Work
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.chat_template import by_chat_template
from reflora_cli.objectives.asking import Answer, Answerer, Question
from reflora_cli.objectives.pick import kind_of
from reflora_cli.runs.restore import Restored, model_identity
from reflora_cli.serving.model import Found, ModelRequest, find_model, load_model
from reflora_cli.serving.output_file import OutputFile, check_output, output_file
from reflora_cli.serving.records import Record, record
from reflora_cli.serving.rows import read_rows
from reflora_cli.tasks.prompts import Template


@dataclass(frozen=True)
class PredictRequest:
    """What to ask.

    inputs: texts, or one file; standard input for none. columns: the names of its columns, where they are not the
    task's. wording: the text around an instruction, instead of the task's own. batch_size: rows in a forward pass,
    instead of the recipe's. output: the file for the predictions; they are only returned for None.
    """

    model: ModelRequest
    inputs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    wording: Template | None = None
    batch_size: int | None = None
    output: Path | None = None


@dataclass(frozen=True)
class Predictions:
    """What the model answered, in the order of the rows. made: how many answers were made now, and not read from what
    an interrupted command has left. records: empty if the output was complete already.
    """

    rows: int
    made: int
    truncated: int
    records: list[Record]


def predict(request: PredictRequest, reporter: Reporter) -> Predictions:
    """Answer all rows. Raises InputError for wrong rows, which are read before the model is loaded."""
    if request.output is not None:
        check_output(request.output)
    found = find_model(request.model)
    refuse_idle(found, request)
    asking = kind_of(found.task).asking(request.wording)
    if not request.inputs and sys.stdin and sys.stdin.isatty():
        reporter.note("reading texts from the terminal, one in each line; Ctrl-D ends the input")
    questions = asking.questions(read_rows(request.inputs, asking, request.columns))
    restored = load_model(found, reporter)
    answerer = asking.answerer(restored.recipe, restored.objective)
    say_wording(found, request, reporter)
    size = request.batch_size or restored.recipe.eval.batch_size
    reporter.note(f"{len(questions):,} rows, {size} at a time, on {restored.compute.device.type}")
    with kept(request.output, restored, answerer, questions) as file:
        answers: dict[int, Answer] = dict(file.answers) if file else {}
        if file and file.is_whole:
            reporter.note(f"all {len(questions):,} rows are there already: {file.path}")
            return Predictions(len(questions), 0, 0, [])
        if answers:
            reporter.note(f"{len(answers):,} of {len(questions):,} rows are there already: {request.output}.part")
        before = len(answers)
        with reporter.counting(Work("predicting", len(questions), before=before)) as tell:
            answer_rest(answerer, questions, answers, size, tell, file)
        records = [record(index + 1, own, answers[index]) for index, own in enumerate(questions)]
        if file:
            file.finish(records)
    return finished(records, len(questions) - before, reporter)


def refuse_idle(found: Found, request: PredictRequest) -> None:
    """Raises InputError for a length of answers where nothing is written."""
    most = request.model.max_new_tokens
    if most is not None and not kind_of(found.task).protocols:
        what = f"--max-new-tokens has no effect: a model for {found.task.name} answers with labels or numbers"
        raise InputError(Problem(what, "--max-new-tokens", str(most), remedy="leave out --max-new-tokens"))


def finished(records: list[Record], made: int, reporter: Reporter) -> Predictions:
    """Return the predictions, and tell of rows that were too long."""
    truncated = sum(bool(own.get("truncated")) for own in records)
    if truncated:
        reporter.note(f"{truncated:,} of {len(records):,} rows were too long, and only a part of each was read")
    return Predictions(len(records), made, truncated, records)


def say_wording(found: Found, request: PredictRequest, reporter: Reporter) -> None:
    """Say how a model directory's language model is asked: by its chat template, or it does not tell."""
    if request.wording is not None:
        return
    if found.directory is not None and by_chat_template(found.task.parts):
        reporter.note("texts are put into the tokenizer's chat template (with --raw they are read as they are)")
    elif not found.has_prompt:
        reporter.note("the directory does not record the prompt of training: texts are read as they are (see --task)")


def kept(
    output: Path | None, restored: Restored, answerer: Answerer, questions: Sequence[Question]
) -> AbstractContextManager[OutputFile | None]:
    """Return the file in which answers are kept, or nothing if they are only returned."""
    return output_file(output, identity(restored, answerer), questions) if output is not None else nullcontext()


def identity(restored: Restored, answerer: Answerer) -> dict[str, object]:
    """Return everything beside the rows that decides what is answered."""
    return {**answerer.settings(), **model_identity(restored)}


def answer_rest(
    answerer: Answerer,
    questions: Sequence[Question],
    answers: dict[int, Answer],
    size: int,
    tell: Tell,
    file: OutputFile | None,
) -> None:
    """Answer the questions that have no answer yet, the longest first: rows of a batch are alike in length, and a batch
    that is too large for the memory fails at once.
    """
    order = sorted(range(len(questions)), key=lambda index: (-questions[index].length, index))
    rest = [index for index in order if index not in answers]
    for start in range(0, len(rest), size):
        batch = rest[start : start + size]
        found = answerer.answer([questions[index] for index in batch])
        answers |= dict(zip(batch, found, strict=True))
        if file:
            file.add(batch, found)
        tell(len(answers))
