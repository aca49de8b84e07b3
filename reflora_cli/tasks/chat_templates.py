"""Chat templates for tokenizers that have none, and those of the user's own files.

ChatML is OpenAI's form of conversations, with calls of tools as JSON between tags as in the Hermes models; `llama3` is
that of Meta's Llama 3 (Dubey et al. 2024, arXiv 2407.21783). Both need tokens that a tokenizer may not have. `PLAIN`
works with every tokenizer: it names the roles in words and ends a turn with the tokenizer's end token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from reflora_cli.ground.errors import InputError, Problem, near
from reflora_cli.ground.paths import expanded, is_file

CHATML = """\
{%- set begin, end = '<|im_start|>', '<|im_end|>\\n' %}
{%- set system = messages[0].content if messages and messages[0].role == 'system' else '' %}
{%- if tools %}
{{- begin + 'system\\n' + (system + '\\n\\n' if system else '') }}
{{- 'These tools can be called, by JSON with name and arguments in <tool_call> tags:\\n<tools>' }}
{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
{{- '\\n</tools>' + end }}
{%- endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}
{{- begin + 'user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' + end }}
{%- elif not (tools and loop.first and system) %}
{{- begin + message.role + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '\\n' if message.content or not loop.first else '' }}
{{- '<tool_call>\\n' + call.function | tojson + '\\n</tool_call>' }}
{%- endfor %}
{{- end }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- begin + 'assistant\\n' }}{%- endif %}
"""
LLAMA3 = """\
{{- bos_token }}
{%- if tools %}{{- raise_exception('the llama3 template has no form for tools') }}{%- endif %}
{%- for message in messages %}
{%- if message.tool_calls or message.role == 'tool' %}
{{- raise_exception('the llama3 template has no form for calls of tools') }}
{%- endif %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
PLAIN = """\
{%- if bos_token and bos_token != eos_token %}{{- bos_token }}{%- endif %}
{%- if tools %}{{- raise_exception('the plain template has no form for tools') }}{%- endif %}
{%- for message in messages %}
{%- if message.tool_calls or message.role == 'tool' %}
{{- raise_exception('the plain template has no form for calls of tools') }}
{%- elif message.role == 'user' %}
{{- 'User: ' + message.content + '\\n' }}
{%- elif message.role == 'assistant' %}
{{- 'Assistant: ' + message.content + eos_token + '\\n' }}
{%- else %}
{{- message.content + '\\n\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'Assistant:' }}{%- endif %}
"""
TEMPLATES: Mapping[str, str] = {"chatml": CHATML, "llama3": LLAMA3, "plain": PLAIN}
"""The texts of templates by the names under which recipes call them."""
EXPECTED = "chatml, llama3, plain, or a file with a Jinja template"
MARKER = re.compile(r"<\|[a-z_]+\|>")
LARGEST = 100_000
"""The most bytes of a template's file: it stands in the recipe of its runs, which must stay readable too."""


def is_template(text: str) -> bool:
    """Whether a text is a template itself, and no name or path."""
    return "{{" in text or "{%" in text


def kept_template(setting: str) -> str:
    """Return a setting of `task.template` as a run keeps it: a template's name, or the text of a file.

    Raises InputError for a name that is unknown, and for a file that is missing or holds no template.
    """
    return setting if setting in TEMPLATES else template_text(setting)


def template_text(setting: str) -> str:
    """Return the text of a template that is given by its name, its file or itself. Raises InputError."""
    if setting in TEMPLATES:
        return TEMPLATES[setting]
    text, where = (setting, "task.template") if is_template(setting) else file_text(setting)
    refuse_broken(text, where)
    return text


def file_text(setting: str) -> tuple[str, str]:
    """Return what a template's file holds, and how errors call the file."""
    path = expanded(setting)
    if not is_file(path):
        remedy = near(setting, TEMPLATES)
        what = "there is no such chat template"
        raise InputError(Problem(what, "task.template", repr(setting), EXPECTED, remedy))
    where = f"task.template: {path}"
    try:
        if path.stat().st_size > LARGEST:
            raise InputError(Problem("the file is too large for a template", where, f"{path.stat().st_size} bytes"))
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(Problem("the template is not UTF-8 text", where, str(error))) from error
    except OSError as error:
        raise InputError(Problem("the template cannot be read", where, error.strerror or str(error))) from error
    if not is_template(text):
        raise InputError(Problem("the file holds no chat template", where, expected="Jinja text with {{ or {%"))
    return text, where


def refuse_broken(text: str, where: str) -> None:
    """Raises InputError for a text that is no Jinja template."""
    from jinja2 import TemplateSyntaxError
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        render_jinja_template([], chat_template=text)  # which is compiled, but not filled in
    except TemplateSyntaxError as error:
        found = f"line {error.lineno}: {error.message}"
        raise InputError(Problem("the chat template is not valid Jinja", where, found)) from error


def markers(text: str) -> tuple[str, ...]:
    """Return the tokens that one of our templates needs; none for any other template."""
    return tuple(dict.fromkeys(MARKER.findall(text))) if text in TEMPLATES.values() else ()
