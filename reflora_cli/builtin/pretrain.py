"""Makes the tiny model: `python -m reflora_cli.builtin.pretrain [--output DIR]`.

A byte-level BPE tokenizer and a Llama of about a million parameters learn every plain text of the world by heart; some
minutes on two cores. The weights are stored as float32, which a model of this size can afford.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from reflora_cli.builtin.dice import Dice
from reflora_cli.builtin.sentences import texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor
    from transformers import LlamaForCausalLM

OUTPUT = Path(__file__).parent / "tiny_llama"
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIAL))
VOCABULARY = 1500
LENGTH = 256
SEED = 0
EPOCHS = 13
BATCH = 64
LEARNING_RATE = 3e-3
IGNORED = -100


def train_tokenizer(corpus: list[str]) -> Tokenizer:
    """Byte-level BPE that puts <bos> before a text and nothing after it, so that a prompt can be continued."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL[UNK]))
    # The prefix space makes a word the same token at the start of a text and inside it.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", BOS)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path) -> None:
    """The two files from which `AutoTokenizer` makes a fast tokenizer."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": SPECIAL[PAD],
        "bos_token": SPECIAL[BOS],
        "eos_token": SPECIAL[EOS],
        "unk_token": SPECIAL[UNK],
        "padding_side": "right",
        "model_max_length": LENGTH,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
    }
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(f"{json.dumps(config, indent=2)}\n", encoding="utf-8")


def new_model(vocabulary: int) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=5,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=LENGTH,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )


def epoch_batches(rows: list[list[int]], dice: Dice) -> list[Tensor]:
    """The rows in new order as tensors [batch, length]; rows of like length share a batch, so little is padding."""
    import torch

    order = sorted(dice.shuffled(rows), key=len)
    cut = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [torch.tensor([row + [PAD] * (len(batch[-1]) - len(row)) for row in batch]) for batch in dice.shuffled(cut)]


def train_model(model: LlamaForCausalLM, rows: list[list[int]]) -> float:
    """Next-token prediction; returns the mean loss of the last epoch."""
    import torch

    steps = EPOCHS * -(-len(rows) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    dice = Dice("batches")
    mean = float("nan")
    model.train()
    for epoch in range(EPOCHS):
        losses: list[float] = []
        for batch in epoch_batches(rows, dice):
            labels = batch.masked_fill(batch == PAD, IGNORED)
            loss = model(input_ids=batch, attention_mask=(batch != PAD).long(), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {mean:.4f}", flush=True)
    return mean


def pretrain(output: Path) -> None:
    """Trains tokenizer and model, and puts them in place of `output` when both are complete."""
    import torch

    torch.manual_seed(SEED)
    started = time.monotonic()
    corpus = texts()
    tokenizer = train_tokenizer(corpus)
    rows = [[*tokenizer.encode(text).ids, EOS] for text in corpus]
    model = new_model(tokenizer.get_vocab_size())
    print(f"{len(rows)} texts, {sum(map(len, rows))} tokens, {tokenizer.get_vocab_size()} in the vocabulary")
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    loss = train_model(model, rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as scratch:
        complete = Path(scratch) / output.name
        model.save_pretrained(complete)
        save_tokenizer(tokenizer, complete)
        for file in complete.iterdir():
            file.chmod(0o644)  # safetensors makes its file private, which an installed package must not be
        if output.exists():
            shutil.rmtree(output)
        complete.rename(output)
    print(f"{output}: loss {loss:.4f} after {time.monotonic() - started:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the built-in tiny model.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="directory to write (default: the package's own)")
    pretrain(parser.parse_args().output)


if __name__ == "__main__":
    main()
