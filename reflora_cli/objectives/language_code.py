"""Write the Python that has a language model answer, for model cards."""

from __future__ import annotations

from reflora_cli.model.chat_template import by_chat_template, shared_wording
from reflora_cli.tasks.base import LanguageTask

QUESTION = "What is a shelf used for?"
NEW_TOKENS = 32
WRITE = (
    f"tokens = model.generate(**inputs, max_new_tokens={NEW_TOKENS}, do_sample=False)",
    'answer = tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)',
    "print(answer)",
)
"""Python that writes an answer behind `inputs`."""


def answer_lines(task: LanguageTask) -> list[str]:
    """Return Python that asks `model` with `tokenizer`, as in training."""
    return message_code() if by_chat_template(task.parts) else prompt_code(task)


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
