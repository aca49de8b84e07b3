"""The same setting through PEFT and the Hugging Face Trainer."""

from __future__ import annotations

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
    PrinterCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from reflora_cli.data.load import load_split
from reflora_cli.model.sources import find_source
from reflora_cli.tasks.base import SequenceTask
from reflora_cli.tasks.registry import find_task
from tests.benchmarks.setting import Outcome, Setting


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Tokenized rows with their labels."""

    def __init__(self, setting: Setting, task: SequenceTask, tokenizer: Any, split: str, limit: int | None) -> None:
        examples = load_split(task, setting.data, split, limit)
        columns = [list(column) for column in zip(*(example.texts for example in examples), strict=True)]
        padding = "max_length" if setting.padded else False
        self.encoded = tokenizer(*columns, truncation=True, max_length=setting.max_length, padding=padding)
        self.labels = [example.label if task.is_regression else int(example.label) for example in examples]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: values[index] for key, values in self.encoded.items()} | {"labels": self.labels[index]}


def run(setting: Setting, directory: Path) -> Outcome:
    """Train and score. Only the methods that PEFT has: lora and dora."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    task = find_task(setting.task)
    assert isinstance(task, SequenceTask)
    location = find_source(setting.base, None).location
    tokenizer = AutoTokenizer.from_pretrained(location)
    set_seed(setting.seed)
    model = peft_model(setting, location, max(1, len(task.label_names)))
    dev = Rows(setting, task, tokenizer, task.evaluation[0], None)
    trainer = Trainer(
        model,
        training_arguments(setting, directory),
        train_dataset=Rows(setting, task, tokenizer, task.train, setting.train_rows),
        eval_dataset=dev,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.remove_callback(PrinterCallback)  # it prints on stdout, which is for the report
    started = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - started
    output = trainer.predict(dev)
    found = output.predictions[:, 0] if task.is_regression else output.predictions.argmax(axis=1)
    return Outcome(
        tool="peft + Trainer",
        scores=task.score(np.asarray(found).tolist(), np.asarray(output.label_ids).tolist()),
        losses={entry["step"]: entry["loss"] for entry in trainer.state.log_history if "loss" in entry},
        seconds_per_epoch=seconds / setting.epochs,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def peft_model(setting: Setting, location: str, labels: int) -> Any:
    model = AutoModelForSequenceClassification.from_pretrained(location, num_labels=labels, dtype=torch.float32)
    config = peft.LoraConfig(
        task_type="SEQ_CLS",
        r=setting.rank,
        lora_alpha=setting.rank,
        target_modules="all-linear",
        use_dora=setting.method == "dora",
    )
    return peft.get_peft_model(model, config)


def training_arguments(setting: Setting, directory: Path) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(directory),
        num_train_epochs=setting.epochs,
        per_device_train_batch_size=setting.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=setting.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        seed=setting.seed,
        train_sampling_strategy="group_by_length" if setting.grouped else "random",
        logging_steps=10,
        save_strategy="no",
        eval_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
