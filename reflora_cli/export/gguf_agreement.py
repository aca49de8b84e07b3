"""List texts on which llama.cpp's token ids must be those of the model's own tokenizer."""

from __future__ import annotations

from typing import Any

from reflora_cli.export.gguf_tokenizer import REMEDY, Converted
from reflora_cli.export.gguf_tokens import SPACE
from reflora_cli.ground.errors import InputError, Problem
from reflora_cli.model.chat_template import prompt_ids, prompt_of, reads, said

TEXTS = (
    "Below is an instruction that describes a task.\n\n### Instruction:\nAdd 12 and 345.\n\n### Response:\n",
    "Hello, World! I'm sure they'll say it's Ann's; WE'VE said DON'T, you'd've.",
    "0 1 2 3 4 5 6 7 8 9 10 12 345 6789 01234 567890 1234567 3.14159 1,000,000 1e-5 0xFF v2.0b3 2024-05-17 12:30",
    "00102030405060708091121314151617181922324252627282933435363738394454647484955657585966768697787988990",
    "x =   12\ny  =    x+1   # 3  spaces\nif x:\n    return  [x, y]\n\telse:\t\t7\r\n\r\n\n\n   \n  end",
    'for (int i = 0; i < n; ++i) { a[i] += b->c::d("s\\n") && !e || f ^ ~g % 2; } // TODO: #1 @x $y <br/>',
    "def camelCase(snake_case, HTTPServer2): return f'{camelCase!r:>10}' ** 2",
    "https://example.org/a_b?c=d&e=%20#f (see [1], p. 5–7) … “quoted” ‘it’s’ — 50% £3 €4 ©",
    "aaaaaaaaaaaa          bbbbbb\t\t\t\t..........-----=====!!!???",
    "Über größere Straßen: naïve façade, İstanbul, ŁÓDŹ, ĐặngThịNgọc, ÉcoleÉté",
    "Привет, МирДружба! Ёлки в 2024-м. Γειά σου Κόσμε. Բարեւ Հայաստան",
    "你好，世界！我有3个苹果和12345元。こんにちは世界、カタカナ１２３。안녕하세요 세계 한국어",
    "नमस्ते दुनिया १२३ हिन्दी। বাংলা ভাষা தமிழ் ภาษาไทยง่าย ລາວ မြန်မာ",
    "مرحبا بالعالم ١٢٣، العربية. שלום עולם, עברית",
    "🙂 👩‍💻 🇩🇪 👍🏽 ½ ² Ⅳ ① x² ∑∫√ α≤β → ∞ 𝒳𝟙 \u00a0nbsp\u3000wide",
    "\n\nbegins with lines",
    " begins with a space",
    "    begins with four",
    " ",
)


def refuse_disagreement(converted: Converted, tokenizer: Any) -> None:
    """Raises InputError if llama.cpp would tokenize a text differently, in a way that the notes do not tell."""
    size = len(converted.tokenizer.tokens)
    added = [token.replace(SPACE, " ") for token, index in tokenizer.get_added_vocab().items() if index < size]
    after = [f"a {token}\n  b" for token in added] if converted.tokenizer.swallows_spaces else []
    for text in (*TEXTS, *(f"a {token}" for token in added), *after):
        if converted.pads_leading_space and text.startswith(" "):
            continue
        asked = text if text.startswith(" ") else converted.lead + text
        expected, found = tokenizer(text)["input_ids"], converted.tokenizer.ids(asked)
        if found != expected:
            raise disagreement(text, tokenizer, expected, found)


def refuse_other_turns(converted: Converted, tokenizer: Any) -> None:
    """Raises InputError if llama.cpp would tokenize a conversation differently than the tokenizer's chat template."""
    turns = [said("user", TEXTS[1]), said("assistant", TEXTS[4]), said("user", TEXTS[11])]
    system = [said("system", TEXTS[0].strip())]
    begin = str(tokenizer.bos_token) if converted.tokenizer.add_bos else ""
    for earlier in ([], system if reads(tokenizer, system) else []):
        for messages in ([*earlier, *turns[:1]], [*earlier, *turns] if reads(tokenizer, turns[:2]) else turns[:1]):
            text = prompt_of(tokenizer, messages)
            expected = prompt_ids(tokenizer, messages)
            found = converted.tokenizer.ids(text.removeprefix(begin))
            if found != expected:
                raise disagreement(text, tokenizer, expected, found)


def disagreement(text: str, tokenizer: Any, expected: list[int], found: list[int]) -> InputError:
    """Return the refusal, which shows the first tokens that differ."""
    place = next(
        (at for at, (a, b) in enumerate(zip(expected, found, strict=False)) if a != b), min(len(expected), len(found))
    )
    shown, wanted = (" ".join(tokenizer.convert_ids_to_tokens(ids[place : place + 4])) for ids in (found, expected))
    what = "llama.cpp cuts texts into other tokens than the model's tokenizer"
    return InputError(Problem(what, f"tokenizer.json, on {text[:60]!r}", f"{shown} ...", f"{wanted} ...", REMEDY))
