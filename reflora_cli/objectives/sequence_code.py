"""Write the Python that finds the label, the labels or the number of a text, for model cards."""

from __future__ import annotations

from reflora_cli.tasks.base import SequenceTask

TEXTS = ("This is a text.", "This is another one.")


def label_lines(task: SequenceTask, labels: str) -> list[str]:
    """Return Python that asks `model` with `tokenizer`. labels: the line that says what outputs mean."""
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
