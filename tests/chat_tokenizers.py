"""Small byte-level tokenizers with chat templates in the manner of known models, and what these write, in Python.

Each family has a template, and apart from it a function that says of every character of its text whether it is the
assistant's. Nothing of it is shared with the package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

Messages = Sequence[Mapping[str, str]]
Pieces = Iterator[tuple[str, bool]]
"""The pieces of a text, each with whether it is the assistant's."""

TEXT = "user assistant system model What color is the cup? It is red. Answer briefly, please. Thank you. Hello there."

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
OWN_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}{% endif %}" + CHATML
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set s = messages[0].content + '\\n\\n' if messages[0].role == 'system' else '' %}"
    "{% set rest = messages[1:] if s else messages %}{% for m in rest %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + (s if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% set s = messages[0].content | trim + '\\n\\n' if messages[0].role == 'system' else '' %}"
    "{% for m in (messages[1:] if s else messages) %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' + (s if loop.first else '') }}"
    "{{ m.content | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' %}{% set answer = m.content.split('</think>')[-1].lstrip('\\n') %}"
    "{% if loop.last %}{{ '<think>\\n' + (m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') "
    "if '</think>' in m.content else '') + '\\n</think>\\n\\n' }}{% endif %}{{ answer }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def chatml(messages: Messages) -> Pieces:
    for message in messages:
        yield f"<|im_start|>{message['role']}\n", False
        yield f"{message['content']}<|im_end|>", message["role"] == "assistant"
        yield "\n", False


def own_system(messages: Messages) -> Pieces:
    if messages[0]["role"] != "system":
        yield "<|im_start|>system\nYou help.<|im_end|>\n", False
    yield from chatml(messages)


def llama3(messages: Messages) -> Pieces:
    yield "<|begin_of_text|>", False
    for message in messages:
        yield f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n", False
        yield f"{message['content'].strip()}<|eot_id|>", message["role"] == "assistant"


def mistral(messages: Messages) -> Pieces:
    system = messages[0]["content"] + "\n\n" if messages[0]["role"] == "system" else ""
    yield "<s>", False
    for index, message in enumerate(messages[1:] if system else messages):
        if message["role"] == "user":
            yield f"[INST] {system if index == 0 else ''}{message['content']} [/INST]", False
        else:
            yield f" {message['content']}</s>", True


def gemma(messages: Messages) -> Pieces:
    system = messages[0]["content"].strip() + "\n\n" if messages[0]["role"] == "system" else ""
    yield "<bos>", False
    for index, message in enumerate(messages[1:] if system else messages):
        is_model = message["role"] == "assistant"
        yield f"<start_of_turn>{'model' if is_model else 'user'}\n{system if index == 0 else ''}", False
        yield f"{message['content'].strip()}<end_of_turn>", is_model
        yield "\n", False


def thinking(messages: Messages) -> Pieces:
    for index, message in enumerate(messages):
        yield f"<|im_start|>{message['role']}\n", False
        if message["role"] == "assistant":
            thought, _, answer = message["content"].rpartition("</think>")
            head = f"<think>\n{thought.removeprefix('<think>').strip(chr(10))}\n</think>\n\n"
            shown = answer.lstrip("\n")
            yield f"{head if index == len(messages) - 1 else ''}{shown}<|im_end|>", True
        else:
            yield f"{message['content']}<|im_end|>", False
        yield "\n", False


IM = ("<|im_start|>", "<|im_end|>")
FAMILIES: Mapping[str, tuple[str, Callable[[Messages], Pieces], dict[str, str], tuple[str, ...]]] = {
    "chatml": (CHATML, chatml, {"eos_token": "<|im_end|>"}, IM),
    "own-system": (OWN_SYSTEM, own_system, {"eos_token": "<|im_end|>"}, IM),
    "llama3": (
        LLAMA3,
        llama3,
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "mistral": (MISTRAL, mistral, {"bos_token": "<s>", "eos_token": "</s>"}, ("<s>", "</s>", "[INST]", "[/INST]")),
    "gemma": (
        GEMMA,
        gemma,
        {"bos_token": "<bos>", "eos_token": "<eos>"},
        ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"),
    ),
    "thinking": (THINKING, thinking, {"eos_token": "<|im_end|>"}, IM),
    "marked": (MARKED, chatml, {"eos_token": "<|im_end|>"}, IM),
}
"""The template of each family, what it writes, the names of special tokens, and all special tokens."""


@cache
def tokenizer_of(family: str, template: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with the special tokens of a family, whose post-processor leaves white space in offsets
    out, as GPT-2's does.
    """
    text, _, named, special = FAMILIES[family]
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=list(special), initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    own.train_from_iterator([TEXT] * 3, trainer)
    found = PreTrainedTokenizerFast(tokenizer_object=own, pad_token=named["eos_token"], **named)
    found.chat_template = text if template else None
    return found


def expected(family: str, messages: Messages) -> tuple[str, list[int]]:
    """The text of a conversation, and the places of the tokens that hold a byte of what the assistant says.

    A token's bytes are counted: one for each letter of its name, as many as it has for a special token.
    """
    tokenizer, pieces = tokenizer_of(family), list(FAMILIES[family][1](messages))
    marks = [assistant for text, assistant in pieces for _ in text.encode()]
    whole, special = "".join(text for text, _ in pieces), {*FAMILIES[family][3]}
    places, begin = [], 0
    for place, token in enumerate(
        tokenizer.convert_ids_to_tokens(tokenizer(whole, add_special_tokens=False).input_ids)
    ):
        end = begin + (len(token.encode()) if token in special else len(token))
        if any(marks[begin:end]):
            places.append(place)
        begin = end
    assert begin == len(marks)
    return whole, places
