"""Write the Python of model cards: code that loads a model and asks it."""

from __future__ import annotations

from collections.abc import Sequence

from reflora_cli.export.public import hub_id
from reflora_cli.model.chat_template import by_chat_template, shared_wording
from reflora_cli.model.sources import Source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.tasks.base import LanguageTask, SequenceTask, Task

HERE, BASE = "path/to/this/directory", "path/to/base"
"""What code says for the directory of the card, and for a base that has no public place."""
QUESTION = "What is a shelf used for?"
TEXTS = ("This is a text.", "This is another one.")
NEW_TOKENS = 32
WRITE = (
    f"tokens = model.generate(**inputs, max_new_tokens={NEW_TOKENS}, do_sample=False)",
    'answer = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
    "print(answer)",
)
"""Python that writes an answer behind `inputs`."""


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
        *asking_lines(task, f"labels = {list(labels)!r}"),
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
        *asking_lines(task, "labels = [model.config.id2label[number] for number in range(model.config.num_labels)]"),
    )


def asking_lines(task: Task, labels: str) -> list[str]:
    """Return Python that asks `model` with `tokenizer`. labels: the line that says what outputs mean."""
    if isinstance(task, SequenceTask):
        return label_lines(task, labels)
    return message_code() if by_chat_template(task.parts) else prompt_code(task)


def label_lines(task: SequenceTask, labels: str) -> list[str]:
    """Return Python that finds the label, the labels or the number of a row."""
    texts = ", ".join(f'"{text}"' for _, text in zip(task.text, TEXTS, strict=False))
    find = [
        "with torch.no_grad():",
        f'    logits = model(**tokenizer({texts}, truncation=True, return_tensors="pt")).logits[0]',
    ]
    if task.is_regression:
        return [*find, "answer = logits.item()", "print(answer)"]
    if task.several:
        chosen = "answer = [label for label, logit in zip(labels, logits.tolist()) if logit >= 0]"
        return [labels, *find, chosen, "print(answer)"]
    return [labels, *find, "answer = labels[logits.argmax()]", "print(answer, logits.softmax(-1).tolist())"]


def prompt_code(task: LanguageTask) -> list[str]:
    """Return Python that has the model write after the prompt of training."""
    prompt = shared_wording(task.parts).fill(QUESTION, "")
    return [f"prompt = {prompt!r}", 'inputs = tokenizer(prompt, return_tensors="pt")', *WRITE]


def message_code() -> list[str]:
    """Return Python that has the model answer a message by the chat template of its tokenizer."""
    return [
        f'messages = [{{"role": "user", "content": "{QUESTION}"}}]',
        "inputs = tokenizer.apply_chat_template(",
        '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
        ")",
        *WRITE,
    ]
