"""Instruction data: any JSON file with `instruction`, `output` and, where a row needs one, `input`.

The answer is free text, scored by its loss.
"""

from __future__ import annotations

from reflora_cli.tasks.base import Answers, PromptExample, PromptTask, Row
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
)

TASKS = (INSTRUCT,)
