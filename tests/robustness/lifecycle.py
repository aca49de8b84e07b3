"""One architecture through everything that the product does with a model: train, evaluate, merge, export, PEFT.

Every stage ends as it should (with the largest difference that was found), refuses its input, differs, or breaks.
"""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from reflora_cli.console.reporter import SilentReporter
from reflora_cli.data.encode_prompts import encode_prompts
from reflora_cli.data.load import load_prompts
from reflora_cli.evaluation.answers import evaluate_answers
from reflora_cli.evaluation.request import Request
from reflora_cli.export.peft import export_peft
from reflora_cli.ground.errors import InputError
from reflora_cli.merging.merge import MergeRequest, merge
from reflora_cli.model.load import quiet_transformers
from reflora_cli.objectives.objective import Split
from reflora_cli.objectives.sequence_rows import sequence_splits
from reflora_cli.recipe.files import load_recipe
from reflora_cli.recipe.sections import Recipe
from reflora_cli.runs.directory import RunDirectory
from reflora_cli.runs.restore import Restored, restore
from reflora_cli.tasks.base import PromptTask, SequenceTask
from reflora_cli.training.train import train
from tests.architectures import Architecture
from tests.random_models import classifier, language_model, widened
from tests.tokenizers import WORDS

SIZES = (1, 8)
"""Rows of a batch in two evaluations that must agree."""
AGREEMENT = 1e-5
"""Of scores and losses in float32, as a share of their size (at least 1)."""
PEFT_AGREEMENT = 1e-4
"""Of PEFT's logits with the merged model's, in the same measure."""
PROTOCOLS = ("choices", "llm-adapters")
RECIPE: dict[str, Any] = {
    "model": {"dtype": "float32"},
    "method": {"rank": 4, "alpha": 8.0, "refactor": {"warmup_steps": 1}},
    "train": {"steps": 6, "batch_size": 8, "micro_batch_size": 4, "learning_rate": 1e-2},
    "eval": {"max_new_tokens": 8},
}
CLASSIFIER_TASK = {"name": "builtin/entailment", "max_length": 64}
LANGUAGE_TASK = {"name": "builtin/questions", "max_length": 192}


FAULTS = ("differs", "broken")
"""Endings that no stage may have."""


class Differs(Exception):
    """Two results that must be equal are not."""


@dataclass(frozen=True)
class Outcome:
    """How a stage ended, and what it said: `ok`, `refused` (an InputError), `differs`, `broken` (any other error)."""

    ending: str
    text: str


@dataclass(frozen=True)
class Setting:
    """Where one architecture's base and run go and the data is, and what is made of it.

    language: a language model, else a classifier. method: a preset's name.
    """

    place: Path
    data: Path
    language: bool
    method: str = "reflora"

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(self.place / "run")

    def recipe(self, **evaluation: Any) -> Recipe:
        task = LANGUAGE_TASK if self.language else CLASSIFIER_TASK
        values = {
            **RECIPE,
            "method": {**RECIPE["method"], "name": self.method},
            "model": {**RECIPE["model"], "name": str(self.place / "base")},
            "task": {**task, "data": str(self.data)},
            "eval": {**RECIPE["eval"], **evaluation},
        }
        file = self.place / "recipe.json"
        file.write_text(json.dumps(values))
        return load_recipe(str(file), [])


def write_data(directory: Path) -> Path:
    """Rows of both tasks in one directory, of very unequal lengths, the longest longer than what is read of a row."""
    for split, count in (("train", 48), ("validation", 12)):
        write_rows(directory / "entailment" / f"{split}.jsonl", [pair(row) for row in range(count)])
        write_rows(directory / "questions" / f"{split}.jsonl", [question(row) for row in range(count)])
    return directory


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def pair(row: int) -> dict[str, Any]:
    """A premise of 1 to 80 words and a hypothesis of 1 to 5."""
    length = (1, 4, 9, 17, 2, 80)[row % 6]
    return {"premise": words(row, length), "hypothesis": words(row + 1, 1 + row % 5), "label": row % 2}


def question(row: int) -> dict[str, Any]:
    """All questions begin alike; some of a question's choices begin alike, and one is the beginning of another."""
    ending = words(row, 1 + row % 11)
    choices = [words(row, 1), words(row, 2), words(row, 4), f"the {words(row + 3, 3)}"]
    asked = f"which of the four things in the old stone house has the man not near the {ending} ?"
    return {"question": asked, "choices": choices, "answer": row % 4}


def words(start: int, count: int) -> str:
    return " ".join(WORDS[(start * 7 + index * 3) % len(WORDS)] for index in range(count))


def save_base(architecture: Architecture, directory: Path, language: bool) -> None:
    """A local checkpoint: a whole language model, or a classifier's body without its head, as such are published."""
    torch.manual_seed(0)
    with quiet_transformers():
        if language:
            widened(language_model(architecture), 0.15).save_pretrained(directory)
        else:
            widened(classifier(architecture), 0.3).base_model.save_pretrained(directory)
        architecture.tokenizer().save_pretrained(directory)


def lifecycle(architecture: Architecture, setting: Setting) -> dict[str, Outcome]:
    """Every stage of one architecture by name, in order; those that need a run are missing where there is none."""
    language = setting.language
    setting.place.mkdir(parents=True)
    save_base(architecture, setting.place / "base", language)
    found = {"train": trained(setting)}
    if not setting.run.results.exists():
        return found
    found["batches"] = attempt(partial(batches, setting))
    if language:
        for protocol in PROTOCOLS:
            found[protocol] = attempt(partial(predictions, setting, protocol))
    found["merge"] = attempt(partial(merged, setting))
    found["peft"] = attempt(partial(in_peft, setting))
    return found


def attempt(stage: Callable[[], str]) -> Outcome:
    """How a stage ends."""
    try:
        return Outcome("ok", stage())
    except InputError as error:
        return Outcome("refused", " ".join(str(error).split()))
    except Differs as error:
        return Outcome("differs", str(error))
    except Exception as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "reflora_cli" in frame.filename]
        where = f" ({Path(own[-1].filename).name}:{own[-1].lineno})" if own else ""
        return Outcome("broken", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}")


def trained(setting: Setting) -> Outcome:
    """Six steps and the evaluation after them, by the first protocol that lets them end well; the worst outcome of all
    that were tried.
    """
    outcomes: list[Outcome] = []
    for protocol in PROTOCOLS if setting.language else PROTOCOLS[:1]:
        outcomes.append(attempt(partial(adapters_of, setting, setting.recipe(protocol=protocol))))
        if outcomes[-1].ending == "ok":
            break
        if outcomes[-1].ending == "refused" and setting.run.recipe.exists():
            outcomes[-1] = Outcome("broken", f"refused after the run had begun: {outcomes[-1].text}")
        shutil.rmtree(setting.run.path, ignore_errors=True)
    return next((outcome for outcome in outcomes if outcome.ending in FAULTS), outcomes[-1])


def adapters_of(setting: Setting, recipe: Recipe) -> str:
    """A trained run. Raises Differs where a factor was left at zero."""
    train(recipe, setting.run.path, False, SilentReporter())
    factors = load_file(setting.run.adapter / "adapter_model.safetensors")
    still = [name for name, tensor in factors.items() if "lora_" in name and not tensor.any()]
    if still:
        raise Differs(f"not trained: {', '.join(still[:3])}")
    return f"{len([name for name in factors if 'lora_A' in name])} adapters"


def batches(setting: Setting) -> str:
    """A classifier's logits and loss, or a language model's loss, in batches of 1 and of 8."""
    restored = restore(setting.recipe(), setting.run.adapter)
    objective: Any = restored.objective
    if isinstance(restored.task, SequenceTask):
        rows = sequence_splits(restored.recipe, restored.task, restored.base, "validation", None)[0].rows
        one, other = (objective.predict(rows, size) for size in SIZES)
        if not torch.equal(one.argmax(1), other.argmax(1)):
            raise Differs(f"{int((one.argmax(1) != other.argmax(1)).sum())} of {len(rows)} predictions")
        return agreement(one, other, AGREEMENT)
    rows = loss_rows(restored)
    return agreement(
        *(torch.tensor(objective.tally(Split("loss", rows), size).scores()["loss"]) for size in SIZES), AGREEMENT
    )


def loss_rows(restored: Restored) -> Sequence[Any]:
    task, section = restored.task, restored.recipe.task
    assert isinstance(task, PromptTask)
    examples = load_prompts(task, section.data, "validation", None)
    return encode_prompts(restored.base.tokenizer, examples, section.max_length, train_on_prompt=True).rows


def predictions(setting: Setting, protocol: str) -> str:
    """A protocol's predictions of every row, in batches of 1 and of 8."""
    found = []
    for size in SIZES:
        restored = restore(setting.recipe(protocol=protocol, batch_size=size), setting.run.adapter)
        assert restored.objective.scorer is not None
        place = setting.place / f"{protocol}-{size}"
        request = Request("", output=place)
        evaluate_answers(restored, restored.objective.scorer, request, place, SilentReporter())
        lines = [json.loads(line) for line in next(place.glob("*.jsonl")).read_text().splitlines()]
        found.append(sorted(lines, key=lambda line: int(line["id"])))
    for key in ("output", "parsed"):
        changed = sum(one[key] != other[key] for one, other in zip(*found, strict=True))
        if changed:
            raise Differs(f"{changed} of {len(found[0])} rows: {key}")
    if protocol != "choices":
        return "equal"
    return agreement(*(torch.tensor([list(line["scores"].values()) for line in lines]) for lines in found), AGREEMENT)


def agreement(one: torch.Tensor, other: torch.Tensor, accepted: float) -> str:
    """The largest difference as a share of the size, at least 1. Raises Differs where it is not accepted."""
    apart = float(((one - other).abs() / one.abs().clamp_min(1.0)).max())
    if not apart <= accepted:
        raise Differs(f"{apart:.1e}")
    return f"{apart:.0e}"


def merged(setting: Setting) -> str:
    """The merged model, verified; how far it was from the adapter model."""
    report = merge(MergeRequest(setting.recipe(), setting.run.adapter, setting.place / "merged"))
    return f"{report.largest_difference:.0e}"


@torch.no_grad()
def in_peft(setting: Setting) -> str:
    """PEFT's logits of the exported adapter on a padded batch, against those of the merged model."""
    place = setting.place / "peft"
    export_peft(setting.recipe(), setting.run, place)
    known: Any = AutoModelForCausalLM if setting.language else AutoModelForSequenceClassification
    labels: Mapping[str, Any] = {} if setting.language else {"num_labels": 2}
    with quiet_transformers():
        base = known.from_pretrained(setting.place / "base", dtype=torch.float32, **labels)
        whole = known.from_pretrained(setting.place / "merged", dtype=torch.float32).eval()
        theirs = peft.PeftModel.from_pretrained(base, place).eval()
    tokenizer = AutoTokenizer.from_pretrained(setting.place / "merged")
    texts = [words(row, length) for row, length in enumerate((3, 12, 1, 7))]
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    return agreement(whole(**inputs).logits, theirs(**inputs).logits, PEFT_AGREEMENT)


def passed(found: Mapping[str, Outcome]) -> bool:
    """Whether every stage did right: what is trained has a loss, is scored by a protocol at least, and is merged."""
    endings = {name: outcome.ending for name, outcome in found.items()}
    if "merge" not in endings:
        return endings["train"] == "refused"
    scored = [endings[name] for name in PROTOCOLS if name in endings] or ["ok"]
    return (
        not set(FAULTS) & set(endings.values()) and {endings["batches"], endings["merge"]} == {"ok"} and "ok" in scored
    )


def as_json(found: Mapping[str, Outcome]) -> dict[str, Any]:
    return {name: asdict(outcome) for name, outcome in found.items()}
