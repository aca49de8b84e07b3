"""Tokenizers of whole words with the special tokens that families of models want, and the tiny model's own."""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from reflora_cli.model.sources import find_source

VOCABULARY = 100
"""Tokens of every tokenizer of words."""
TEXT = """
the a of in on is was are red blue green small large old new cup box tree house stone river bird fish cat dog man woman
child holds sees has likes finds moves near under over with without who what which where when and or not no yes north
south east west one two three four five six seven eight nine ten wood glass iron paper water question
"""
WORDS = TEXT.split()


@dataclass(frozen=True)
class Style:
    """How a family of models writes one text and a pair of texts.

    special: the first tokens, by the role that transformers gives them. single, pair: templates, `:1` is a token type.
    types: whether there are token types; pad_type: that of padding. side: of padding.
    """

    special: dict[str, str]
    single: str
    pair: str
    types: bool = False
    side: str = "right"
    pad_type: int = 0

    @property
    def ids(self) -> dict[str, int]:
        """The special tokens' ids as a model's configuration calls them."""
        return {f"{role}_id": index for index, role in enumerate(self.special) if role in CONFIGURED}


CONFIGURED = ("pad_token", "bos_token", "eos_token", "cls_token", "sep_token")
BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
ROBERTA = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>"}
XLNET = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "cls_token": "<cls>", "sep_token": "<sep>",
         "pad_token": "<pad>"}  # fmt: skip
STYLES = {
    "bert": Style(BERT, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", types=True),
    "distilbert": Style(BERT, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
    "roberta": Style(ROBERTA, "<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "t5": Style({"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}, "$A </s>", "$A </s> $B </s>"),
    "xlnet": Style(XLNET, "$A <sep> <cls>:2", "$A <sep> $B:1 <sep>:1 <cls>:2", types=True, side="left", pad_type=3),
}
TINY_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
"""Of the tiny model's tokenizer."""


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the package's tiny language model, of 1500 tokens."""
    found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(find_source("builtin:tiny-llama", None).location)
    return found


def word_tokenizer(style: Style) -> PreTrainedTokenizerBase:
    """A tokenizer of whole words as a family of models has it; words that it does not know are unknown tokens."""
    special = list(style.special.values())
    words = [*special, *WORDS, *(f"extra{number}" for number in range(VOCABULARY))][:VOCABULARY]
    ids = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=style.special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    named = [(word, ids[word]) for word in special]
    backend.post_processor = processors.TemplateProcessing(single=style.single, pair=style.pair, special_tokens=named)
    names = ["input_ids", *(["token_type_ids"] if style.types else []), "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, padding_side=style.side, pad_token_type_id=style.pad_type, model_input_names=names,
        **style.special,
    )  # fmt: skip
