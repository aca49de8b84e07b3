"""Tokenizers in GGUF files: ids as llama.cpp makes them, rebuilt from its sources, against the tokenizer's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reflora_cli.export import gguf_splitters as splitters
from reflora_cli.export.gguf_agreement import TEXTS, refuse_disagreement
from reflora_cli.export.gguf_pieces import is_joined_by_score
from reflora_cli.export.gguf_tokenizer import Converted, convert_tokenizer
from reflora_cli.export.gguf_tokenizer_fields import read_tokenizer, write_tokenizer
from reflora_cli.export.gguf_tokens import LlamaTokenizer
from reflora_cli.ground.errors import InputError
from reflora_cli.model.sources import BUILTIN

gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")

SOURCE = [*TEXTS, "x =   12 and    345 return   7", "don't DON'T we'll", "    indented = 1\n"] * 2


def split(*expressions: str, behavior: str = "isolated", invert: bool = False) -> Any:
    """Splits in turn, then bytes."""
    steps = [pre_tokenizers.Split(Regex(expression), behavior, invert) for expression in expressions]
    return sequence(*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))


def sequence(*steps: Any) -> Any:
    return pre_tokenizers.Sequence(list(steps))


def trained(pre: Any, normalizer: Any = None, end: str | None = "</s>", **settings: Any) -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer that has read all of our texts."""
    own = Tokenizer(BPE(**settings))
    own.pre_tokenizer = pre
    own.decoder = decoders.ByteLevel()
    if normalizer is not None:
        own.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=900, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False)
    own.train_from_iterator(SOURCE, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>", eos_token=end)


def level(**settings: Any) -> Any:
    return pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **settings})


def convert(tokenizer: Any) -> Converted:
    converted = convert_tokenizer(tokenizer, len(tokenizer))
    refuse_disagreement(converted, tokenizer)
    return converted


@pytest.mark.parametrize(
    ("pre", "settings", "name"),
    [
        (level(), {}, "gpt-2"),
        (sequence(pre_tokenizers.Digits(individual_digits=True), level()), {}, "smollm"),
        (split(splitters.LLAMA3), {"ignore_merges": True}, "llama-bpe"),
        (split(splitters.LLAMA3, behavior="removed", invert=True), {"ignore_merges": True}, "llama-bpe"),
        (split(splitters.LLAMA3), {}, "smaug-bpe"),
        (split(splitters.QWEN2), {}, "qwen2"),
        (split(splitters.QWEN35), {}, "qwen35"),
        (split(splitters.SEED), {}, "seed-coder"),
        (split(*splitters.V3), {}, "deepseek-v3"),
        (split(*splitters.CODER), {}, "deepseek-coder"),
    ],
)
def test_known_ways_of_cutting_have_llama_cpps_name(pre: Any, settings: dict[str, Any], name: str) -> None:
    tokenizer = trained(pre, **settings)
    converted = convert(tokenizer)
    assert (converted.tokenizer.model, converted.tokenizer.pre, converted.notes) == ("gpt2", name, ())
    for text in (*TEXTS, "if x:\n        y = 2024  # 7\t8"):
        assert converted.tokenizer.ids(text) == tokenizer(text)["input_ids"]


def test_runs_of_spaces_before_digits_are_cut_as_in_training() -> None:
    """Cut as `gpt-2` does, the spaces and the digits would be other tokens than any that were trained."""
    tokenizer = trained(sequence(pre_tokenizers.Digits(individual_digits=True), level()))
    own = convert(tokenizer).tokenizer
    other = LlamaTokenizer(own.model, "gpt-2", own.tokens, own.types, own.eos, merges=own.merges)
    text = "x =   12"
    assert own.ids(text) == tokenizer(text)["input_ids"] != other.ids(text)
    with pytest.raises(InputError, match="other tokens"):
        refuse_disagreement(Converted(other), tokenizer)


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (lambda: trained(sequence(pre_tokenizers.Digits(individual_digits=False), level())), "cuts"),
        (lambda: trained(sequence(pre_tokenizers.Whitespace(), level())), "Whitespace"),
        (lambda: trained(sequence(pre_tokenizers.Punctuation(), level())), "Punctuation"),
        (lambda: trained(split(r"\d+|\D+")), "cuts a text"),
        (lambda: trained(split(splitters.QWEN2), ignore_merges=True), "ignoring merges"),
        (lambda: trained(split(splitters.QWEN2, behavior="removed")), "Removed"),
        (lambda: trained(level(), normalizers.Lowercase()), "Lowercase"),
        (lambda: trained(level(), normalizers.NFKC()), "NFKC"),
        (
            lambda: trained(sequence(pre_tokenizers.Digits(True), level(add_prefix_space=True))),
            "every",
        ),
        (lambda: with_added(AddedToken("<tag>", rstrip=True)), "rstrip"),
        (lambda: with_added(AddedToken("<tag>", single_word=True)), "single_word"),
        (lambda: PreTrainedTokenizerFast(tokenizer_object=Tokenizer(Unigram([("<unk>", 0.0)], 0))), "Unigram"),
        (lambda: trained(level(), end=None), "end token"),
    ],
)
def test_what_llama_cpp_does_not_have_is_refused(tokenizer: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        convert(tokenizer())
    assert "--format safetensors" in str(caught.value)


def with_added(token: AddedToken) -> PreTrainedTokenizerFast:
    tokenizer = trained(level())
    tokenizer.add_tokens([token])
    return tokenizer


def test_letters_that_llama_cpp_takes_for_others_are_found() -> None:
    """It knows no case beyond ASCII: these two ways of cutting are stand-ins, which the texts tell apart."""
    tokenizer = trained(split(splitters.cased(*splitters.GPT4O)))
    with pytest.raises(InputError, match="other tokens"):
        convert(tokenizer)


def test_added_tokens_are_found_in_texts() -> None:
    tokenizer = with_added(AddedToken("<|turn of 2|>", special=True, normalized=False))
    converted = convert(tokenizer)
    text = "a <|turn of 2|>b 12"
    assert converted.tokenizer.ids(text) == tokenizer(text)["input_ids"]
    assert converted.tokenizer.types[-1] == gguf.TokenType.CONTROL


def test_what_a_text_must_be_given_is_said() -> None:
    composed = convert(trained(split(splitters.QWEN2), normalizers.NFC()))
    assert "NFC" in composed.notes[0]
    tokenizer = AutoTokenizer.from_pretrained(BUILTIN["tiny-llama"])
    converted = convert(tokenizer)
    assert (converted.lead, len(converted.notes)) == (" ", 1)
    assert converted.tokenizer.ids(" A cup") == tokenizer("A cup")["input_ids"] != converted.tokenizer.ids("A cup")


PIECES = ("▁t", "he", "▁a", "in", "▁the", "▁▁", "▁▁▁▁", "nd", "▁and", "ing", "12", "aa", "aaaa", "re", "or", "et")


def pieces(normalizer: Any, pre: Any = None, flawed: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer as SentencePiece's are converted: every way of making a piece is a merge, the best piece first.

    flawed: one of the ways is missing.
    """
    letters = sorted({letter for text in (*TEXTS, "▁") for letter in text if letter.isalpha() and letter.isascii()})
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocabulary = ["<unk>", "<s>", "</s>", *bytes_, "▁", "1", "2", *letters, *PIECES]
    ways = [(piece[:place], piece[place:]) for piece in PIECES for place in range(1, len(piece))]
    merges = [way for way in ways if way[0] in vocabulary and way[1] in vocabulary]
    vocab = {piece: index for index, piece in enumerate(vocabulary)}
    own = Tokenizer(BPE(vocab, merges[: -1 if flawed else None], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    own.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    for name, value in (("normalizer", normalizer), ("pre_tokenizer", pre)):
        if value is not None:
            setattr(own, name, value)
    own.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def swallowing(*tokens: str) -> PreTrainedTokenizerFast:
    """Pieces with special tokens, of which some swallow spaces after them."""
    own = Tokenizer.from_str(pieces(PREPENDED).backend_tokenizer.to_str())
    every = ("<unk>", "<s>", "</s>", "<|user|>", "<|endoftext|>")
    own.add_special_tokens([AddedToken(token, rstrip=token in tokens, normalized=False) for token in every])
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


RUNS = ("▁▁", "▁▁▁", "▁▁▁▁")


def with_runs() -> PreTrainedTokenizerFast:
    """Pieces as Gemma's: cut at spaces of which none is left, and runs of spaces that are tokens of their own.

    Those come first in the merges, in no order of pieces.
    """
    parts = json.loads(pieces(ESCAPED, pre_tokenizers.Split(" ", "merged_with_previous")).backend_tokenizer.to_str())
    ways = [["▁▁▁", "▁"], ["▁▁", "▁▁"], ["▁▁", "▁"], ["▁", "▁▁▁"], ["▁", "▁▁"], ["▁", "▁"]]
    model = parts["model"]
    model["vocab"].setdefault("▁▁▁", len(model["vocab"]))
    model["merges"] = ways + [merge for merge in model["merges"] if list(merge) not in ways]
    own = Tokenizer.from_str(json.dumps(parts))
    own.add_tokens([AddedToken(run, normalized=False) for run in RUNS])
    return PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


ESCAPED = normalizers.Replace(" ", "▁")
PREPENDED = normalizers.Sequence([normalizers.Prepend("▁"), ESCAPED])


class TestPieces:
    """SentencePiece's BPE, with byte fallback."""

    @pytest.mark.parametrize(("normalizer", "prefix"), [(PREPENDED, True), (ESCAPED, False)])
    def test_scores_follow_the_merges(self, normalizer: Any, prefix: bool) -> None:
        """A score for every token, the earlier merge the better; bytes and special tokens as such."""
        tokenizer = pieces(normalizer)
        converted = convert(tokenizer)
        own = converted.tokenizer
        assert (own.model, own.add_space_prefix, own.add_bos, own.add_eos) == ("llama", prefix, True, False)
        scores = dict(zip(own.tokens, own.scores, strict=True))
        assert 0 == scores["▁t"] > scores["he"] > scores["▁the"] > scores["x"]
        assert own.types[:4] == (2, 3, 3, 6)
        for text in (*TEXTS, "  two", "and the </s> ing"):
            assert own.ids(text) == tokenizer(text)["input_ids"]

    @pytest.mark.parametrize(
        ("scheme", "space_prefix", "notes"), [("always", True, 1), ("first", True, 2), ("never", False, 0)]
    )
    def test_spaces_before_a_text(self, scheme: str, space_prefix: bool, notes: int) -> None:
        converted = convert(pieces(None, pre_tokenizers.Metaspace("▁", scheme, split=False)))
        assert (converted.tokenizer.add_space_prefix, len(converted.notes)) == (space_prefix, notes)

    def test_runs_of_spaces_are_found_before_a_text_is_cut(self) -> None:
        """llama.cpp looks for them in a text that still has its spaces."""
        tokenizer = with_runs()
        own = convert(tokenizer).tokenizer
        assert set(RUNS).isdisjoint(own.tokens)
        assert {own.types[own.tokens.index(run.replace("▁", " "))] for run in RUNS} == {gguf.TokenType.USER_DEFINED}
        for text in (*TEXTS, "  two", "x   the     and  a", "    "):
            assert own.ids(text) == tokenizer(text)["input_ids"]

    def test_special_tokens_that_swallow_spaces(self, tmp_path: Path) -> None:
        """Phi-3's do, all but three, which llama.cpp knows by the model's name."""
        tokenizer = swallowing("</s>", "<|user|>")
        own = convert(tokenizer).tokenizer
        text = "the<|user|> \n and</s>  12 <s> the"
        assert own.swallows_spaces
        assert own.ids(text) == tokenizer(text)["input_ids"] != replace(own, swallows_spaces=False).ids(text)
        for name, found in (("Phi-3-mini", True), ("other", False)):
            writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "phi3")
            writer.add_name(name)
            write_tokenizer(writer, own, "")
            for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_ti_data_to_file):
                write()
            writer.close()
            back = read_tokenizer(gguf.GGUFReader(tmp_path / f"{name}.gguf").fields)
            assert back.swallows_spaces is found

    @pytest.mark.parametrize("tokens", [("<|user|>",), ("</s>", "<|user|>", "<s>")])
    def test_spaces_that_only_some_special_tokens_swallow_are_refused(self, tokens: tuple[str, ...]) -> None:
        with pytest.raises(InputError, match="rstrip of some"):
            convert(swallowing(*tokens))

    def test_a_tokenizer_that_llama_cpp_would_not_load_is_refused(self) -> None:
        parts = json.loads(swallowing("</s>", "<|user|>").backend_tokenizer.to_str())
        parts["added_tokens"] = [entry for entry in parts["added_tokens"] if entry["content"] != "<|endoftext|>"]
        own = Tokenizer.from_str(json.dumps(parts))
        with pytest.raises(InputError, match=r"<\|endoftext\|>"):
            convert(PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", bos_token="<s>", eos_token="</s>"))

    @pytest.mark.parametrize(
        ("tokenizer", "words"),
        [
            (lambda: pieces(normalizers.Sequence([normalizers.NFKC(), ESCAPED])), "NFKC"),
            (lambda: pieces(normalizers.Sequence([normalizers.Strip(), ESCAPED])), "Strip"),
            (lambda: pieces(normalizers.Replace(Regex(" {2,}"), "▁")), "Replace"),
            (lambda: pieces(None), "no step"),
            (lambda: pieces(None, pre_tokenizers.Metaspace("▁", "always", split=True)), "cut at every space"),
            (lambda: pieces(PREPENDED, pre_tokenizers.WhitespaceSplit()), "WhitespaceSplit"),
            (lambda: pieces(PREPENDED, flawed=True), "merges"),
        ],
    )
    def test_other_steps_are_refused(self, tokenizer: Any, words: str) -> None:
        with pytest.raises(InputError, match=words):
            convert(tokenizer())

    def test_merges_must_be_those_of_scores(self) -> None:
        """llama.cpp joins any two neighbours that are a piece together."""
        known = {"a", "b", "c", "ab", "bc", "abc"}
        assert is_joined_by_score(known, [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")])
        assert not is_joined_by_score(known, [("a", "b"), ("b", "c"), ("ab", "c")])
        assert not is_joined_by_score(known, [("a", "b"), ("ab", "c"), ("b", "c"), ("a", "bc")])


def test_a_file_holds_the_whole_tokenizer(tmp_path: Path) -> None:
    for index, tokenizer in enumerate((AutoTokenizer.from_pretrained(BUILTIN["tiny-llama"]), pieces(PREPENDED))):
        converted = convert_tokenizer(tokenizer, len(tokenizer) + 3).tokenizer
        assert converted.tokens[-1] == f"[PAD{len(tokenizer) + 2}]"
        assert converted.types[-1] == gguf.TokenType.UNUSED
        writer = gguf.GGUFWriter(tmp_path / f"{index}.gguf", "llama")
        write_tokenizer(writer, converted, "{{ messages }}")
        for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_ti_data_to_file):
            write()
        writer.close()
        fields = gguf.GGUFReader(tmp_path / f"{index}.gguf").fields
        assert read_tokenizer(fields) == converted
        assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"
