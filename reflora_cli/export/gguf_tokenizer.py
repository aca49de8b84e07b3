"""Convert a tokenizer to one of llama.cpp's two kinds: SentencePiece-like with scores, or byte-level BPE with merges.

Every step that decides ids is one that llama.cpp has too, or is refused. If llama.cpp does something differently that
texts can avoid, the conversion says so in its notes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from reflora_cli.export.gguf_pieces import is_joined_by_score, scores
from reflora_cli.export.gguf_splitters import BYTES, UnknownStepError, find_splitter, steps_of
from reflora_cli.export.gguf_tokens import CHARACTERS, PATIENT, SPACE, SPECIAL, LlamaTokenizer
from reflora_cli.ground.errors import InputError, Problem

BYTE = re.compile(r"<0x[0-9A-F]{2}>")
REMEDY = "merge it instead, which keeps the tokenizer: reflora export RUN --format safetensors"
COMPOSED = "llama.cpp does not compose characters as the model's tokenizer does: give it texts in Unicode's form NFC"
LEADING = "llama.cpp cuts a text that begins with a space as if it began with one space more"
AFTER_SPECIAL = "llama.cpp puts a space before what follows a special token inside of a text"
WITHOUT_PREFIX = (
    "the model's tokenizer puts a space before a text, llama.cpp does not: begin a prompt with a space, "
    "as the template here does"
)


@dataclass(frozen=True)
class Converted:
    """A tokenizer for llama.cpp.

    lead: what must be put before a text that does not begin with a space. pads_leading_space: whether llama.cpp puts a
    space before a text that begins with one. notes: what it does differently from the model's tokenizer.
    """

    tokenizer: LlamaTokenizer
    lead: str = ""
    pads_leading_space: bool = False
    notes: tuple[str, ...] = ()

    def talking(self, turn: int | None, *, begins: bool) -> Converted:
        """Return the tokenizer of a model of conversations. turn: the token that ends a turn; None for the end token
        alone. begins: whether a prompt begins with the begin token, whatever a text of another kind begins with.
        """
        own = self.tokenizer
        has_begin = own.bos is not None and begins
        return replace(self, tokenizer=replace(own, eot=own.eot if turn is None else turn, add_bos=has_begin))


def convert_tokenizer(tokenizer: Any, size: int) -> Converted:
    """Return llama.cpp's form of a transformers tokenizer. size: that of the embedding, which may have unused rows.

    Raises InputError for what llama.cpp does not have.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise unlike("it is not from the tokenizers library", type(tokenizer).__name__)
    parts = json.loads(backend.to_str())
    model = parts["model"]
    if model["type"] != "BPE":
        raise unlike("its kind", model["type"], "BPE, byte-level or with byte fallback")
    for field in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(field):
            raise unlike(f"its {field}", str(model[field]), "none")
    for entry in parts.get("added_tokens") or []:
        for flag in ("single_word", "lstrip"):
            if entry[flag]:
                raise unlike(f"{flag} of an added token", entry["content"], "added tokens that are found as they are")
    steps = pre_steps(parts)
    if steps is not None and BYTES in steps:
        return byte_level(tokenizer, parts, steps, size)
    if model.get("byte_fallback"):
        return with_scores(tokenizer, parts, size)
    raise unlike("how it cuts a text into words", json.dumps(parts.get("pre_tokenizer"))[:200])


def unlike(what: str, found: str, expected: str = "") -> InputError:
    """Return the refusal of a tokenizer with something that llama.cpp does not have."""
    what = f"llama.cpp has no equivalent for a part of the model's tokenizer: {what}"
    return InputError(Problem(what, "tokenizer.json", found, expected, REMEDY))


def pre_steps(parts: dict[str, Any]) -> tuple[str, ...] | None:
    """Return the pre-tokenizer's steps; None for a SentencePiece-like one. Raises InputError for unknown byte-level
    steps.
    """
    try:
        return steps_of(parts.get("pre_tokenizer"))
    except UnknownStepError as error:
        if parts["model"].get("byte_fallback"):
            return None
        raise unlike("a step that splits texts into words", str(error)[:300]) from error


def byte_level(tokenizer: Any, parts: dict[str, Any], steps: tuple[str, ...], size: int) -> Converted:
    """Return byte-level BPE: merges, and the name of how words are cut."""
    model = parts["model"]
    splitter = find_splitter(steps, ignores_merges=bool(model.get("ignore_merges")))
    if splitter is None:
        found = f"{' then '.join(steps)}{', ignoring merges' if model.get('ignore_merges') else ''}"
        raise unlike("how it cuts a text into words", found[:300])
    if model.get("unk_token") and not set(CHARACTERS.values()) <= set(model["vocab"]):
        raise unlike("a token for unknown bytes", model["unk_token"], "a token for each of the 256 bytes")
    notes = [splitter.note] if splitter.note else []
    notes += [COMPOSED] if composes(parts, known=set()) else []
    refuse_decoder(parts, {"ByteLevel", "Fuse"})
    prefixes = any(step.get("add_prefix_space") for step in byte_steps(parts["pre_tokenizer"]))
    if prefixes and parts["pre_tokenizer"]["type"] != "ByteLevel":
        raise unlike("a space before every piece of a text", "add_prefix_space")
    merges = tuple(pair(merge) for merge in model["merges"])
    built = assemble(tokenizer, parts, size, model="gpt2", pre=splitter.name, merges=merges)
    return Converted(built, " " if prefixes else "", False, (*notes, *([WITHOUT_PREFIX] if prefixes else [])))


def byte_steps(step: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in step.get("pretokenizers", [step]) if one.get("type") == "ByteLevel"]


def with_scores(tokenizer: Any, parts: dict[str, Any], size: int) -> Converted:
    """Return SentencePiece's BPE: spaces are part of the pieces, which are joined by score."""
    known = {"Prepend", "Replace"}
    notes = [COMPOSED] if composes(parts, known) else []
    kinds = {step["type"] for step in normalizers(parts)} & known
    pre = parts.get("pre_tokenizer") or {}
    refuse_decoder(parts, {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"})
    model, scheme = parts["model"], pre.get("prepend_scheme", "never")
    pieces = normal_pieces(tokenizer, parts)
    if "Replace" in kinds and cuts_at_spaces(pre):
        pre = {}  # no space is left to cut at
    if pre and (kinds or pre.get("type") != "Metaspace" or pre["replacement"] != SPACE):
        raise unlike("how it cuts a text into words", json.dumps(pre, ensure_ascii=False)[:200])
    if not pre and "Replace" not in kinds:
        raise unlike("spaces that are not part of its pieces", "no step makes ▁ of a space")
    if pre.get("split") and any(SPACE in piece[1:] for piece in pieces):
        raise unlike("pieces that are cut at every space", "Metaspace with split", "split: false")
    lacking = [byte for byte in range(256) if f"<0x{byte:02X}>" not in model["vocab"]]
    if lacking:
        raise unlike("byte fallback without a token for every byte", f"no <0x{lacking[0]:02X}>")
    merges = [pair(merge) for merge in model["merges"]]
    if not is_joined_by_score(pieces, merges):
        raise unlike("merges that do not follow from an order of its pieces", f"{len(merges):,} merges")
    built = assemble(tokenizer, parts, size, model="llama", pre="default", merges=tuple(merges))
    if pre and scheme != "never":
        notes += [LEADING] if scheme == "always" else [LEADING, AFTER_SPECIAL]
    return Converted(built, "", bool(pre) and scheme != "never", tuple(notes))


def cuts_at_spaces(pre: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer cuts a text at spaces and nowhere else, as Gemma's does."""
    return bool(pre.get("type") == "Split" and pre["pattern"] == {"String": " "} and not pre.get("invert"))


def normalizers(parts: dict[str, Any]) -> list[dict[str, Any]]:
    step = parts.get("normalizer")
    return [] if not step else list(step.get("normalizers", [step]))


def composes(parts: dict[str, Any], known: set[str]) -> bool:
    """Whether texts are brought into the form NFC first. Raises InputError for an unknown step."""
    for step in normalizers(parts):
        expected = {"Prepend": {"prepend": SPACE}, "Replace": {"pattern": {"String": " "}, "content": SPACE}}
        settings = {name: value for name, value in step.items() if name != "type"}
        if step["type"] != "NFC" and (step["type"] not in known or settings != expected[step["type"]]):
            raise unlike("a step that rewrites texts", json.dumps(step, ensure_ascii=False)[:200], "NFC at most")
    return any(step["type"] == "NFC" for step in normalizers(parts))


def refuse_decoder(parts: dict[str, Any], known: set[str]) -> None:
    """Raises InputError if ids become text by steps that llama.cpp does not have."""
    decoder = parts.get("decoder") or {}
    for step in decoder.get("decoders", [decoder]):
        if step and step["type"] not in known:
            raise unlike("how ids become text", json.dumps(step, ensure_ascii=False)[:200], ", ".join(sorted(known)))


def pair(merge: Any) -> tuple[str, str]:
    """Return the two parts of a merge, which is written as one text or as two."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def normal_pieces(tokenizer: Any, parts: dict[str, Any]) -> set[str]:
    """Return the vocabulary without added tokens and bytes."""
    added = {entry["content"] for entry in parts.get("added_tokens") or []} | set(tokenizer.all_special_tokens)
    return {piece for piece in parts["model"]["vocab"] if piece not in added and not BYTE.fullmatch(piece)}


def assemble(
    tokenizer: Any,
    parts: dict[str, Any],
    size: int,
    *,
    model: Literal["llama", "gpt2"],
    pre: str,
    merges: tuple[tuple[str, str], ...],
) -> LlamaTokenizer:
    """Put the tokenizer's parts into llama.cpp's arrangement."""
    tokens = vocabulary(tokenizer, size)
    prefixes = any(step["type"] == "Prepend" for step in normalizers(parts))
    scheme = (parts.get("pre_tokenizer") or {}).get("prepend_scheme", "never")
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "unk", "pad")}
    ids = {name: index for name, index in ids.items() if index is not None and index < size}
    if "eos" not in ids:
        raise unlike("no end token", "without one llama.cpp ends texts at a token of its own choice", "an eos_token")
    bos, eos = around(tokenizer)
    scored, types = model == "llama", token_types(tokens, tokenizer, parts)
    return LlamaTokenizer(
        model, pre, as_found(tokens, types) if scored else tokens, types, **ids,
        scores=tuple(scores(tokens, merges)) if scored else (), merges=() if scored else merges,
        add_bos=bos, add_eos=eos, add_space_prefix=scored and (prefixes or scheme != "never"),
        swallows_spaces=swallows_spaces(tokens, types, parts),
    )  # fmt: skip


def swallows_spaces(tokens: tuple[str, ...], types: tuple[int, ...], parts: dict[str, Any]) -> bool:
    """Whether special tokens swallow the spaces after them, as Phi-3's do. Raises InputError where some of those do
    that llama.cpp has all do, or where one of Phi-3's is lacking, without which llama.cpp does not load the file.
    """
    swallowing = {entry["content"] for entry in parts.get("added_tokens") or [] if entry["rstrip"]} & set(tokens)
    expected = {token for token, kind in zip(tokens, types, strict=True) if kind in SPECIAL} - set(PATIENT)
    if swallowing and swallowing != expected:
        found = ", ".join(sorted(swallowing ^ expected)[:3])
        raise unlike("rstrip of some added tokens", found, "rstrip of all special tokens, or of none")
    if swallowing and (lacking := {*PATIENT, "</s>"} - set(tokens)):
        raise unlike("rstrip of added tokens, without a token of Phi-3's", ", ".join(sorted(lacking)))
    return bool(swallowing)


def vocabulary(tokenizer: Any, size: int) -> tuple[str, ...]:
    """Return tokens by id; rows of the embedding without a token get a name of their own."""
    taken = tokenizer.get_vocab()
    by_id = {index: token for token, index in taken.items()}
    mark = "" if not any(f"[PAD{index}]" in taken for index in range(size)) else "_"
    return tuple(by_id.get(index, f"[PAD{mark}{index}]") for index in range(size))


def token_types(tokens: tuple[str, ...], tokenizer: Any, parts: dict[str, Any]) -> tuple[int, ...]:
    import gguf

    taken = tokenizer.get_vocab()
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
        return int(gguf.TokenType.NORMAL if token in taken else gguf.TokenType.UNUSED)

    return tuple(kind(token) for token in tokens)


def as_found(tokens: tuple[str, ...], types: tuple[int, ...]) -> tuple[str, ...]:
    """Return pieces, those that the user defined with spaces: llama.cpp looks for them before it replaces spaces."""
    import gguf

    defined = int(gguf.TokenType.USER_DEFINED)
    return tuple(
        token.replace(SPACE, " ") if kind == defined else token for token, kind in zip(tokens, types, strict=True)
    )


def around(tokenizer: Any) -> tuple[bool, bool]:
    """Whether the begin token and the end token are put around a text. Raises InputError for other tokens."""
    inner = tokenizer("a", add_special_tokens=False)["input_ids"]
    ids = tokenizer("a")["input_ids"]
    for bos in ([], [tokenizer.bos_token_id]):
        for eos in ([], [tokenizer.eos_token_id]):
            if ids == [*bos, *inner, *eos]:
                return bool(bos), bool(eos)
    shown = " ".join(tokenizer.convert_ids_to_tokens(ids))
    raise unlike("what it puts around a text", shown, "at most a begin token and an end token")
