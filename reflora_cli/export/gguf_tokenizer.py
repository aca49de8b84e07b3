"""A tokenizer as llama.cpp keeps it: SentencePiece-like with scores, or byte-level BPE with merges."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from reflora_cli.errors import InputError, Problem

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {CONTRACTIONS + WORDS + r"\p{N}{1,3}" + REST: "llama-bpe", CONTRACTIONS + WORDS + r"\p{N}" + REST: "qwen2"}
"""How byte-level tokenizers cut a text into words -> llama.cpp's name for it."""


def add_tokenizer(writer: Any, directory: Path, tokenizer: Any, size: int) -> None:
    """Write vocabulary, special tokens and chat template. size: of the embedding, which may have unused rows.

    Raises InputError for a kind of tokenizer that llama.cpp does not have.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise InputError(Problem("the tokenizer has no tokenizer.json", str(directory)))
    parts = json.loads(path.read_text(encoding="utf-8"))
    model = parts["model"]
    if model["type"] != "BPE":
        what = "llama.cpp has no tokenizer of this kind"
        raise InputError(Problem(what, str(path), model["type"], "BPE, byte-level or with byte fallback"))
    tokens = vocabulary(tokenizer, size)
    writer.add_token_list([token.encode() for token in tokens])
    writer.add_token_types(token_types(tokens, tokenizer, parts))
    if model.get("byte_fallback"):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores(tokens, model["merges"]))
        writer.add_add_space_prefix(has_prefix(parts))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(word_splitter(parts, path))
        writer.add_token_merges([" ".join(pair(merge)) for merge in model["merges"]])
    add_special(writer, tokenizer)


def vocabulary(tokenizer: Any, size: int) -> list[str]:
    """Tokens by id; rows of the embedding without a token get a name of their own."""
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    return [by_id.get(index, f"[PAD{index}]") for index in range(size)]


def pair(merge: Any) -> tuple[str, str]:
    """Merges are written as one text or as two."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def scores(tokens: list[str], merges: list[Any]) -> list[float]:
    """A token's score is minus the rank of the first merge that makes it: llama.cpp merges the best scored first."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(pair(merge)), rank)
    return [float(-ranks.get(token, len(merges))) for token in tokens]


def token_types(tokens: list[str], tokenizer: Any, parts: dict[str, Any]) -> list[int]:
    import gguf

    added = {entry["content"]: entry["special"] for entry in parts.get("added_tokens") or []}
    special = {*tokenizer.all_special_tokens, *(token for token, is_special in added.items() if is_special)}

    def kind(token: str) -> int:
        if token == tokenizer.unk_token:
            return int(gguf.TokenType.UNKNOWN)
        if token in special:
            return int(gguf.TokenType.CONTROL)
        if token in added:
            return int(gguf.TokenType.USER_DEFINED)
        if BYTE.fullmatch(token):
            return int(gguf.TokenType.BYTE)
        return int(gguf.TokenType.UNUSED if token.startswith("[PAD") else gguf.TokenType.NORMAL)

    return [kind(token) for token in tokens]


def has_prefix(parts: dict[str, Any]) -> bool:
    """Whether a space is put before a text."""
    normalizer, pre = (parts.get(name) or {} for name in ("normalizer", "pre_tokenizer"))
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    prepends = any(step.get("type") == "Prepend" for step in steps)
    return prepends or pre.get("prepend_scheme") in ("first", "always")


def word_splitter(parts: dict[str, Any], path: Path) -> str:
    """llama.cpp's name for the way in which a byte-level tokenizer cuts words. Raises InputError for an unknown one."""
    pre = parts.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    splits = [step["pattern"].get("Regex", "") for step in steps if step.get("type") == "Split"]
    levels = [step for step in steps if step.get("type") == "ByteLevel"]
    if levels and not splits and levels[0].get("use_regex", True):
        return "gpt-2"
    found = splits[0] if len(splits) == 1 else ""
    if levels and found in SPLITS:
        return SPLITS[found]
    what = "llama.cpp does not know how this tokenizer cuts a text into words"
    raise InputError(Problem(what, str(path), found or json.dumps(pre)[:200], f"one of {', '.join(SPLITS.values())}"))


def add_special(writer: Any, tokenizer: Any) -> None:
    """Ids of special tokens, which of them are put around a text, and the chat template."""
    ids = tokenizer("a")["input_ids"]
    for name in ("bos", "eos", "unk", "pad"):
        token = getattr(tokenizer, f"{name}_token_id")
        if token is not None:
            getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(bool(ids) and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(ids) and ids[-1] == tokenizer.eos_token_id)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)
