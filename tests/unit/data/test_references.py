"""A row with several references is several rows of training, and several rows with one prompt are scored as one."""

from __future__ import annotations

from reflora_cli.data.references import divided, gathered
from reflora_cli.tasks.examples import PromptExample


def example(prompt: str, *references: str) -> PromptExample:
    return PromptExample(prompt, f" {references[0]}", prompt, label=references[0], references=references)


def test_every_reference_is_learned() -> None:
    assert divided([example("a", "x", "y x"), example("b", "z")]) == [
        example("a", "x"),
        example("a", "y x"),
        example("b", "z"),
    ]
    plain = PromptExample("p", "answer", "p", ("answer",), ("answer",), "answer")
    assert divided([plain]) == [plain]


def test_every_prompt_is_asked_once() -> None:
    found = gathered([example("a", "x", "y"), example("b", "z"), example("a", "x"), example("a", "w")])
    assert found == [example("a", "x", "y", "x", "w"), example("b", "z")]
