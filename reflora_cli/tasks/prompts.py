"""Turn an instruction into a prompt.

`LLM_ADAPTERS` is the text of the LLM-Adapters code (Hu et al. 2023, arXiv 2304.01933), which DoRA and RefLoRA use for
the commonsense tasks, to the letter: with the sixteen spaces that its source code's indentation leaves in every line,
and with other blank lines and trailing spaces in evaluation than in training. A published score belongs to these texts.
`PLAIN` is the same wording without the accidents.
"""

from __future__ import annotations

from dataclasses import dataclass

INDENT = " " * 16
HEAD = "Below is an instruction that describes a task"
CONTEXT = ", paired with an input that provides further context"
REQUEST = ". Write a response that appropriately completes the request."


@dataclass(frozen=True)
class Template:
    """A prompt's text with {instruction}, and a second one with {input} too, for rows that have one."""

    alone: str
    with_input: str

    def fill(self, instruction: str, context: str) -> str:
        """Return the prompt. Braces inside the texts are left alone."""
        template = self.with_input if context else self.alone
        head, _, tail = template.partition("{instruction}")
        return head + instruction + tail.replace("{input}", context, 1)


def sections(*titles: str, indent: str, blank: str) -> str:
    """Return the titled sections, each beginning on a line of its own, with a blank line between them."""
    places = {"Instruction": "{instruction}", "Input": "{input}", "Response": ""}
    return f"\n{blank}\n".join(f"{indent}### {title}:\n{indent}{places[title]}" for title in titles)


def template(alone: str, with_input: str, indent: str, blank: str) -> Template:
    """Build a template in the wording of LLM-Adapters.

    alone, with_input: what that code writes after the first sentence of either text, up to the end of its line.
    """
    return Template(
        f"{HEAD}{REQUEST}{alone}\n\n{sections('Instruction', 'Response', indent=indent, blank=blank)}",
        f"{HEAD}{CONTEXT}{REQUEST}{with_input}\n\n"
        f"{sections('Instruction', 'Input', 'Response', indent=indent, blank=blank)}",
    )


LLM_ADAPTERS = template("  ", " ", indent=INDENT, blank=INDENT)
LLM_ADAPTERS_EVALUATION = template(" ", "", indent=INDENT, blank="")
PLAIN = template("", "", indent="", blank="")
