"""Describe how byte-level tokenizers cut a text into words, under llama.cpp's names.

The tokenizers library cuts in steps, llama.cpp by a list of regular expressions that a name stands for
(`tokenizer.ggml.pre`; src/llama-vocab.cpp). Both apply one expression after the other, each to the pieces that the one
before it left; what no expression matches is a piece too. A tokenizer is exported only if its steps are those of one of
the names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import regex

BYTES = "bytes"
"""The step that writes the bytes of every piece as characters of their own."""
NUMBER = r"\p{N}"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|`]+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORD = r"[^\r\n\p{L}\p{N}]?"
ENDS = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
SYMBOLS = r"| ?[^\s\p{L}\p{N}]+[\r\n]*" + ENDS
LLAMA3 = CONTRACTIONS + f"|{WORD}" + r"\p{L}+|\p{N}{1,3}" + SYMBOLS
QWEN2 = CONTRACTIONS + f"|{WORD}" + r"\p{L}+|\p{N}" + SYMBOLS
QWEN35 = CONTRACTIONS + f"|{WORD}" + r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + ENDS
SEED = CONTRACTIONS + f"|{WORD}" + r"\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+" + ENDS
LINE = r"[\r\n]"
IDEOGRAPHS = "[一-龥ࠀ-一가-퟿]+"
KANA = "[一-龥぀-ゟ゠-ヿ]+"
ASCII_MARK = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
DEEPSEEK3 = ASCII_MARK + r"[A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*" + ENDS
ALPHABETS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕ"
    "ἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳ"
    "Ꙁ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
DEEPSEEK_WORD = rf"\s?[{ALPHABETS}]+"
DEEPSEEK_MARKS = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"


def cased(upper: str, lower: str, contraction: str, number: str) -> str:
    """Return expressions for words that end where capital letters follow small ones. upper, lower: expressions for
    one letter.
    """
    words = f"{WORD}{upper}*{lower}+{contraction}|{WORD}{upper}+{lower}*{contraction}"
    return f"{words}|{number}" + r"| ?[^\s\p{L}\p{N}]+[\r\n/]*" + ENDS


UNICODE_CASES = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
ASCII_CASES = r"((?=[\p{L}])([^a-z]))", r"((?=[\p{L}])([^A-Z]))"
"""llama.cpp's substitute for case: letters beyond ASCII are capital and small at once, and marks are neither."""


@dataclass(frozen=True)
class Splitter:
    """One of llama.cpp's ways to cut. name: its name there. expressions: those that it applies one after the other.

    steps: what a tokenizer that cuts so applies one after the other. Where llama.cpp's expressions differ from them,
    both agree on all that such tokenizers' merges can join, which is checked on texts. note: where they may disagree.
    ignores_merges: words of the vocabulary are never cut.
    """

    name: str
    steps: tuple[str, ...]
    expressions: tuple[str, ...]
    ignores_merges: bool = False
    note: str = ""

    def pieces(self, text: str) -> list[str]:
        """Return the words of a text."""
        pieces = [text]
        for expression in self.expressions:
            pieces = [part for piece in pieces for part in cut(regex.compile(expression), piece)]
        return pieces


def cut(expression: regex.Pattern[str], text: str) -> list[str]:
    """Return matches and the text between them, in order."""
    places = [place for match in expression.finditer(text) for place in match.span()]
    return [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True) if end > begin]


CODER = (LINE, r"\s?\p{L}+", r"\s?\p{P}+", IDEOGRAPHS, NUMBER)
LLM = (LINE, DEEPSEEK_WORD, DEEPSEEK_MARKS, r"\s+$", IDEOGRAPHS)
V3 = (r"\p{N}{1,3}", KANA, DEEPSEEK3)
CASELESS = (
    "llama.cpp tells capital letters from small ones in ASCII only and takes combining marks for no letters: rare "
    "words of other scripts may be cut otherwise"
)
GPT4O = (*UNICODE_CASES, f"{CONTRACTIONS}?", r"\p{N}{1,3}")
SPLITTERS = (
    Splitter("gpt-2", (GPT2, BYTES), (GPT2,)),
    Splitter("smollm", (NUMBER, GPT2, BYTES), (NUMBER, GPT2)),
    Splitter("llama-bpe", (LLAMA3, BYTES), (LLAMA3,), ignores_merges=True),
    Splitter("smaug-bpe", (LLAMA3, BYTES), (LLAMA3,)),
    Splitter("qwen2", (QWEN2, BYTES), (QWEN2,)),
    Splitter("qwen35", (QWEN35, BYTES), (QWEN35,)),
    Splitter("seed-coder", (SEED, BYTES), (SEED,)),
    Splitter("deepseek-llm", (*LLM, NUMBER, BYTES), (*LLM, r"\p{N}+")),
    Splitter("deepseek-coder", (*CODER, BYTES), CODER),
    Splitter("deepseek-v3", (*V3, BYTES), V3),
    Splitter(
        "falcon", (PUNCTUATION, GPT2, BYTES, r"\p{N}+", "[0-9][0-9][0-9]"), (PUNCTUATION, GPT2, "[0-9][0-9][0-9]")
    ),
    Splitter(
        "tekken",
        (cased(*UNICODE_CASES, "", NUMBER), BYTES),
        (cased(*ASCII_CASES, "", NUMBER),),
        ignores_merges=True,
        note=CASELESS,
    ),
    Splitter(
        "gpt-4o",
        (cased(*GPT4O), BYTES),
        (cased(*ASCII_CASES, *GPT4O[2:]),),
        note=CASELESS,
    ),
)
TOTAL = {GPT2, LLAMA3, QWEN2, QWEN35, SEED, cased(*UNICODE_CASES, "", NUMBER), cased(*GPT4O)}
"""Expressions that match every character, so that what they do not match is nothing."""


class UnknownStepError(Exception):
    """A step of a tokenizer is not known here; the message is the step as JSON."""


def steps_of(step: dict[str, Any] | None) -> tuple[str, ...]:
    """Return a pre-tokenizer's steps as expressions and `BYTES`. Raises UnknownStepError."""
    if not step:
        return ()
    kind = step.get("type")
    if kind == "Sequence":
        return tuple(one for part in step["pretokenizers"] for one in steps_of(part))
    if kind == "Digits":
        return (NUMBER,) if step.get("individual_digits") else (r"\p{N}+",)
    if kind == "ByteLevel":
        return (GPT2, BYTES) if step.get("use_regex", True) else (BYTES,)
    if kind == "Punctuation" and step.get("behavior") == "Contiguous":
        return (PUNCTUATION,)
    if kind == "Split" and isolates(step):
        return (step["pattern"]["Regex"],)
    raise UnknownStepError(json.dumps(step, ensure_ascii=False))


def isolates(step: dict[str, Any]) -> bool:
    """Whether matches of a Split's expression, and what lies between them, are all kept as pieces of their own."""
    expression = step["pattern"].get("Regex")
    inverted, behavior = bool(step.get("invert")), step.get("behavior")
    if expression is None:
        return False
    return (behavior == "Isolated" and not inverted) or (behavior == "Removed" and inverted and expression in TOTAL)


def find_splitter(steps: tuple[str, ...], *, ignores_merges: bool) -> Splitter | None:
    """Return the splitter of a tokenizer with these steps; None if llama.cpp has none."""
    return next((one for one in SPLITTERS if (one.steps, one.ignores_merges) == (steps, ignores_merges)), None)


def splitter_named(name: str) -> Splitter:
    return next(one for one in SPLITTERS if one.name == name)
