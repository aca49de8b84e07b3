"""Write a tokenizer into the metadata of a GGUF file, and read it back."""

from __future__ import annotations

from typing import Any, cast

from reflora_cli.export.gguf_tokens import SWALLOWING_NAMES, LlamaTokenizer


def write_tokenizer(writer: Any, tokenizer: LlamaTokenizer, chat_template: str) -> None:
    """Write vocabulary, special tokens and chat template."""
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list([token.encode() for token in tokenizer.tokens])
    writer.add_token_types(list(tokenizer.types))
    if tokenizer.model == "llama":
        writer.add_token_scores(list(tokenizer.scores))
    else:
        writer.add_token_merges([" ".join(merge) for merge in tokenizer.merges])
    for name in ("bos", "eos", "unk", "pad", "eot"):
        if (index := getattr(tokenizer, name)) is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)
    writer.add_add_space_prefix(tokenizer.add_space_prefix)
    writer.add_chat_template(chat_template)


def read_tokenizer(fields: Any) -> LlamaTokenizer:
    """Return the tokenizer that a file's metadata holds. fields: those of gguf's reader."""

    def value(name: str, missing: Any = None) -> Any:
        return fields[f"tokenizer.ggml.{name}"].contents() if f"tokenizer.ggml.{name}" in fields else missing

    name = fields["general.name"].contents().lower() if "general.name" in fields else ""
    return LlamaTokenizer(
        value("model"), value("pre"), tuple(value("tokens")), tuple(value("token_type")),
        bos=value("bos_token_id"), eos=value("eos_token_id"),
        unk=value("unknown_token_id"), pad=value("padding_token_id"), eot=value("eot_token_id"),
        scores=tuple(value("scores", ())),
        merges=tuple(cast(tuple[str, str], tuple(merge.split(" ", 1))) for merge in value("merges", ())),
        add_bos=value("add_bos_token"), add_eos=value("add_eos_token"), add_space_prefix=value("add_space_prefix"),
        swallows_spaces=any(mark in name for mark in SWALLOWING_NAMES),
    )  # fmt: skip
