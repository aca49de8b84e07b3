"""Instruction data: any JSON file with `instruction`, `output` and, where a row needs one, `input`.

The answer is free text, scored by its loss. A row is put by the wording of Alpaca, or as a turn of the user and one of
the assistant by the tokenizer's chat template (`task.prompt`).
"""

from __future__ import annotations

from reflora_cli.tasks.base import Answers, PromptTask
from reflora_cli.tasks.chat import from_instruction
from reflora_cli.tasks.examples import PromptExample, Row
from reflora_cli.tasks.prompts import PLAIN


def example(row: Row) -> PromptExample:
    prompt = PLAIN.fill(row["instruction"], row.get("input") or "")
    return PromptExample(prompt, row["output"], prompt)


# Follow instructions: your own data.
INSTRUCT = PromptTask(
    name="instruct",
    source=None,
    fields={"instruction": str, "output": str},
    optional=("input",),
    example=example,
    template=PLAIN,
    answers=Answers.LOSS,
    evaluation=("validation",),
    example_by_template=from_instruction,
)

TASKS = (INSTRUCT,)
