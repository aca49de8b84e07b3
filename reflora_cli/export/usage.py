"""Write the Python of model cards: code that loads a model and asks it."""

from __future__ import annotations

from collections.abc import Sequence

from reflora_cli.export.public import hub_id
from reflora_cli.model.sources import Source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.tasks.base import Task

HERE, BASE = "path/to/this/directory", "path/to/base"
"""What code says for the directory of the card, and for a base that has no public place."""


def python(*lines: str) -> list[str]:
    """Return a fenced block of Python."""
    return ["```python", *lines, "```"]


def base_lines(task: Task, location: str, revision: str | None = None) -> list[str]:
    """Return Python that loads the base model."""
    kind = kind_of(task)
    pinned = {"revision": revision} if revision else {}
    arguments = [repr(location), *(f"{name}={value!r}" for name, value in {**pinned, **kind.base_arguments}.items())]
    load = f"base = {kind.auto_class}.from_pretrained({', '.join(arguments)})"
    return [f"from transformers import AutoTokenizer, {kind.auto_class}", "", load]


def peft_lines(task: Task, source: Source, labels: Sequence[str], *, has_tokenizer: bool = True) -> list[str]:
    """Return Python that puts the adapter on its base with PEFT, and asks it.

    labels: those of a classifier's outputs, in their order. has_tokenizer: whether a tokenizer lies beside the adapter.
    """
    location = hub_id(source) or BASE
    return python(
        "import torch",
        "from peft import PeftModel",
        *base_lines(task, location, None if source.is_local else source.revision),
        f'model = PeftModel.from_pretrained(base, "{HERE}").eval()',
        f'tokenizer = AutoTokenizer.from_pretrained("{HERE if has_tokenizer else location}")',
        *kind_of(task).asking_code(f"labels = {list(labels)!r}"),
    )


def transformers_lines(task: Task) -> list[str]:
    """Return Python that loads a merged model with transformers, and asks it."""
    auto = kind_of(task).auto_class
    return python(
        "import torch",
        f"from transformers import AutoTokenizer, {auto}",
        "",
        f'model = {auto}.from_pretrained("{HERE}").eval()',
        f'tokenizer = AutoTokenizer.from_pretrained("{HERE}")',
        *kind_of(task).asking_code(
            "labels = [model.config.id2label[number] for number in range(model.config.num_labels)]"
        ),
    )
