"""Small tokenizers with the chat templates of families of models, and Ollama's way to read a template."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from reflora_cli.export.gguf_splitters import QWEN2

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN = (
    "{%- if messages[0]['role'] != 'system' %}{{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{%- endif %}"
    + CHATML
)
LLAMA3 = (
    "{{- bos_token }}{%- for message in messages %}"
    "{{- '<|start|>' + message['role'] + '<|stop|>\\n\\n' + message['content'] | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>\\n\\n' }}{%- endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ raise_exception('only user and assistant') }}{% endif %}"
    "{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set first = '' %}{% set loop_messages = messages %}{% endif %}"
    "{% for message in loop_messages %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' }}"
    "{{ (first if loop.first else '') + message['content'] + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
LAST_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set s = messages[0]['content'] + ' ' %}{% set turns = messages[1:] %}"
    "{% else %}{% set s = '' %}{% set turns = messages %}{% endif %}"
    "{% for message in turns %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (s if loop.last else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
"""A template that puts the system message before the last question."""


@dataclass(frozen=True)
class Family:
    """A template with its special tokens. end: what ends a turn. system: whether it reads a system message."""

    template: str
    special: tuple[str, ...]
    end: str
    system: bool = True
    bos: bool = False


FAMILIES = {
    "chatml": Family(CHATML, ("<|im_start|>", "<|im_end|>", "<|endoftext|>"), "<|im_end|>"),
    "qwen": Family(QWEN, ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "llama3": Family(LLAMA3, ("<|start|>", "<|stop|>", "<|eot|>"), "<|eot|>", bos=True),
    "mistral": Family(MISTRAL, ("[INST]", "[/INST]"), "</s>", system=False, bos=True),
    "gemma": Family(GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<end_of_turn>", bos=True),
}


def family_tokenizer(family: Family, texts: Sequence[str] = ("What is a cup? A thing to drink from.",)) -> Any:
    """A byte-level tokenizer as Qwen2's, trained on a few texts, with a family's template and special tokens."""
    own = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(QWEN2), "isolated")
    own.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    own.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", *family.special]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    own.train_from_iterator(texts, trainer)
    own.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    if family.bos:
        own.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = family.template
    return tokenizer


ACTION = re.compile(r"\{\{(-?)\s*(.*?)\s*(-?)\}\}", re.DOTALL)


def ollama_prompt(template: str, messages: Sequence[dict[str, str]]) -> str:
    """What Ollama makes of messages: Go's `text/template` with the fields Messages and System, as its documentation
    says; of the language, what such templates use.
    """
    parts: list[Any] = []
    at = 0
    for found in ACTION.finditer(template):
        assert (found[1], found[3]) == ("", ""), "white space would be trimmed"
        parts += [("text", template[at : found.start()]), ("do", found[2])]
        at = found.end()
    parts.append(("text", template[at:]))
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    written, end = run(parts, 0, {"System": system, "Messages": messages})
    assert end == len(parts), "an action has no end"
    return written


def run(parts: list[Any], at: int, dot: Any) -> tuple[str, int]:
    """The text up to the action that ends this block, and the place of that action."""
    written = ""
    while at < len(parts):
        kind, text = parts[at]
        if kind == "text":
            written, at = written + text, at + 1
        elif text.startswith(("end", "else")):
            return written, at
        elif text.startswith("range "):
            each = dot[text.removeprefix("range .")]
            bodies = [run(parts, at + 1, {key.capitalize(): own for key, own in one.items()}) for one in each]
            _, end = run(parts, at + 1, {"Role": "", "Content": ""})
            written, at = written + "".join(body for body, _ in bodies), end + 1
        elif text.startswith("if "):
            found, at = branch(parts, at, dot)
            written += found
        else:
            written, at = written + str(value(text, dot)), at + 1
    return written, at


def branch(parts: list[Any], at: int, dot: Any) -> tuple[str, int]:
    """The text of the first branch that is taken, and the place after the end."""
    chosen, text = None, parts[at][1].removeprefix("if ")
    while True:
        is_true = text == "" or bool(value(text, dot))
        body, at = run(parts, at + 1, dot)
        chosen = body if chosen is None and is_true else chosen
        action = parts[at][1]
        if action == "end":
            return chosen or "", at + 1
        text = action.removeprefix("else").removeprefix(" if").strip()


def value(text: str, dot: Any) -> Any:
    if equal := re.fullmatch(r'eq \.(\w+) "([^"]*)"', text):
        return dot[equal[1]] == equal[2]
    if quoted := re.fullmatch(r'"([^"\\]*)"', text):
        return quoted[1]
    return dot[text.removeprefix(".")]
