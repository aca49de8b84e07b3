"""Settings that save time or memory, together: any two of them take the steps of a plain run, or are refused at once.

Every run has many of them. What must have acted is counted, so that none is lost in silence. Blocks are compiled to
graphs that run operation by operation; `test_compiled.py` has the compiler's own code.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import modeling_utils
from typer.testing import CliRunner

from reflora_cli.adapters.block_stream import BlockStream
from reflora_cli.builtin.rows import rows
from reflora_cli.cli import app
from reflora_cli.ground.errors import InputError
from reflora_cli.model.packed_layout import Layout
from reflora_cli.objectives import language, trimmed
from reflora_cli.optim.pair_adamw_8bit import BitsAndBytesMember
from reflora_cli.recipe.files import load_recipe
from reflora_cli.training import session, step
from reflora_cli.training.offload import HostActivations
from tests.architectures import ENCODERS
from tests.cli.conftest import WEIGHTS, Outcome, Reflora, killed, step_losses, train
from tests.pairwise import Pair, all_pairs, covering, pairs_in
from tests.random_models import classifier, widened
from tests.two_processes import run_by_two

# Of torch itself, where it traces what is no leaf of a graph.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

STEPS, ROWS, MICRO = 4, 16, 5
SETTINGS = {
    "model.dtype": "float32", "method.rank": 4, "method.refactor.warmup_steps": 1, "task.max_length": 40,
    "task.max_train_rows": 64, "task.max_eval_rows": 16, "train.steps": STEPS, "train.batch_size": ROWS,
    "train.learning_rate": 3e-3, "train.log_every": 1, "train.checkpoint_every": 2, "eval.every": "never",
    "eval.select": "last",
}  # fmt: skip
SECONDS = r'"seconds": [0-9.e-]+'
SWITCH = ("false", "true")
VALUES = {
    "method.name": ("dora", "reflora", "pissa", "eva", "prompt"),
    "model.streaming": ("none", "host", "disk"),
    "model.quantization": ("none", "nf4"),
    "model.attention": ("sdpa", "eager"),
    "train.packing": SWITCH,
    "train.trim_last_block": SWITCH,
    "train.gradient_checkpointing": SWITCH,
    "train.offload_activations": SWITCH,
    "train.group_by_length": SWITCH,
    "train.optimizer": ("adamw", "paged_adamw"),
    "train.micro_batch_size": (str(ROWS), str(MICRO)),
}
OF_LANGUAGE_MODELS = {
    **{name: own for name, own in VALUES.items() if name != "train.trim_last_block"},
    "method.name": ("dora", "reflora", "eva"),
    "model.streaming": ("none", "host"),
}
ACTING = ("model.streaming", "train.packing", "train.trim_last_block", "train.gradient_checkpointing",
          "train.offload_activations", "train.optimizer")  # fmt: skip
"""Settings of which it is counted what they do."""
WHAT_IS_LEARNT = ("method.name", "model.quantization", "train.group_by_length")
"""Settings with which a run takes other steps, so that the plain run has them too."""


def pair(one: str, other: str) -> Pair:
    (name, value), (second, own) = one.split("="), other.split("=")
    return frozenset({(name, value), (second, own)})


REFUSED = {
    pair("train.compile=true", "model.streaming=host"): "train.compile",
    pair("train.compile=true", "model.streaming=disk"): "train.compile",
    pair("model.quantization=nf4", "model.streaming=disk"): "model.streaming",
    pair("method.name=pissa", "model.streaming=disk"): "model.streaming",
    pair("train.packing=true", "train.trim_last_block=true"): "train.trim_last_block",
    pair("method.name=prompt", "train.packing=true"): "train.packing",
    pair("method.name=reflora-s", "train.optimizer=paged_adamw"): "train.optimizer",
    pair("eval.cache=static", "model.streaming=host"): "eval.cache",
    pair("train.offload_activations=true", "model.sharded=true"): "train.offload_activations",
}
"""Pairs that are refused, and the setting that the message names."""


def recipe_file(place: Path, values: dict[str, Any]) -> Path:
    nested: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        section, key = name.split(".", 1)
        own = nested.setdefault(section, {})
        if "." in key:
            outer, key = key.split(".")
            own = own.setdefault(outer, {})
        own[key] = value
    place.write_text(yaml.safe_dump(nested), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One for a classifier, an encoder with random weights, and one for the tiny language model."""
    place = tmp_path_factory.mktemp("recipes")
    torch.manual_seed(0)
    made: Any = classifier(ENCODERS["bert"], hidden_size=64, intermediate_size=64)
    widened(made, 0.1)
    made.base_model.save_pretrained(place / "bert")
    ENCODERS["bert"].tokenizer().save_pretrained(place / "bert")
    bases = {
        "classifier": {"model.name": str(place / "bert"), "task.name": "builtin/entailment"},
        "language model": {"model.name": "builtin:tiny-llama", "task.name": "builtin/questions"},
    }
    return {name: recipe_file(place / f"{name}.yaml", {**SETTINGS, **own}) for name, own in bases.items()}


Losses = Callable[[str, dict[str, str]], tuple[list[float], dict[str, torch.Tensor]]]


@pytest.fixture(scope="module")
def plain(recipes: dict[str, Path], reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Losses:
    """The losses of a plain run, and what it has trained; every such run is made once."""
    known: dict[str, tuple[list[float], dict[str, torch.Tensor]]] = {}

    def found(kind: str, settings: dict[str, str]) -> tuple[list[float], dict[str, torch.Tensor]]:
        sees_batches = settings["method.name"] == "eva"  # whose start goes through the rows in micro-batches
        names = (*WHAT_IS_LEARNT, *(["train.micro_batch_size"] if sees_batches else []))
        own = [f"{name}={settings[name]}" for name in names]
        key = f"{kind} {own}"
        if key not in known:
            run = train(reflora, recipes[kind], tmp_path_factory.mktemp("plain") / "run", *own)
            known[key] = step_losses(run), load_file(run / WEIGHTS)
        return known[key]

    return found


@pytest.fixture
def acted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often what a setting asks for was done; compiled code is replaced by graphs."""
    counts: Counter[str] = Counter()

    def counted(owner: Any, name: str, setting: str) -> None:
        function = getattr(owner, name)

        @wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if not torch.compiler.is_compiling():
                counts[setting] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda own, *, mode, **more: compile_(
        own, backend="aot_eager_decomp_partition", **more))  # fmt: skip
    monkeypatch.setattr(session, "HostActivations", partial(HostActivations, smallest=64))
    counted(HostActivations, "copied", "train.offload_activations")
    counted(BlockStream, "enter", "model.streaming")
    counted(Layout, "pack", "train.packing")
    counted(language, "pack_prompts", "train.packing")
    counted(trimmed, "narrow_training", "train.trim_last_block")
    counted(modeling_utils, "checkpoint", "train.gradient_checkpointing")
    counted(BitsAndBytesMember, "__init__", "train.optimizer")
    counted(step, "chunk_loss", "train.micro_batch_size")
    torch.compiler.reset()
    yield counts
    torch.compiler.reset()


def words(choice: dict[str, str]) -> str:
    """The values that are no defaults, for the name of a test."""
    return " ".join(value if value != "true" else name.split(".")[1] for name, value in choice.items()
                    if value not in ("false", "none", "sdpa", "adamw", str(ROWS)))  # fmt: skip


PAIRS = {own: where for own, where in REFUSED.items() if own <= {(n, v) for n in VALUES for v in VALUES[n]}}
"""The refused pairs of settings that runs are made with."""
PLAIN = {name: own[0] for name, own in VALUES.items()}
COMPILED = (
    {
        "method.name": "pissa", "model.quantization": "nf4", "model.attention": "eager",
        "train.trim_last_block": "true",
        "train.gradient_checkpointing": "true", "train.offload_activations": "true", "train.optimizer": "paged_adamw",
    },
    {"method.name": "dora", "train.packing": "true", "train.offload_activations": "true"},
)  # fmt: skip
"""What is compiled together with: few runs, as tracing takes most of the time."""
RUNS = [
    *(("classifier", choice) for choice in covering(VALUES, PAIRS)),
    *(("language model", choice) for choice in covering(OF_LANGUAGE_MODELS, PAIRS)),
    *(("classifier", {**PLAIN, **choice, "train.compile": "true"}) for choice in COMPILED),
]


@pytest.mark.parametrize(("kind", "choice"), RUNS, ids=[f"{kind}: {words(choice)}" for kind, choice in RUNS])
def test_together_they_take_the_steps_of_a_plain_run(
    kind: str,
    choice: dict[str, str],
    plain: Losses,
    acted: Counter[str],
    recipes: dict[str, Path],
    reflora: Reflora,
    tmp_path: Path,
) -> None:
    losses, weights = plain(kind, choice)
    acted.clear()
    run = train(reflora, recipes[kind], tmp_path / "run", *(f"{name}={value}" for name, value in choice.items()))
    assert len(losses) == STEPS
    assert step_losses(run) == pytest.approx(losses, abs=1e-5)
    assert apart(load_file(run / WEIGHTS), weights) < 1e-3
    results = json.loads((run / "results.json").read_text())
    assert results["attention"] == choice["model.attention"]
    assert results.get("not_compiled", "") == ""
    compiles = "train.compile" in choice  # a call that is traced is not counted
    assert results.get("compile", False) is compiles
    seen = [name for name in ACTING if name in choice and not (compiles and name == "train.gradient_checkpointing")]
    expected = {name for name in seen if choice[name] not in ("false", "none", "adamw")}
    assert {name for name in seen if acted[name]} == expected
    assert acted["train.micro_batch_size"] >= STEPS * -(-ROWS // int(choice["train.micro_batch_size"]))


def apart(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The relative distance of all that was trained. A single entry may move further, where AdamW divides rounding
    by rounding.
    """
    assert found.keys() == expected.keys()
    both = [torch.cat([own[name].flatten() for name in sorted(expected)]).double() for own in (found, expected)]
    return float((both[0] - both[1]).norm() / both[1].norm())


@pytest.mark.parametrize("refused", REFUSED, ids=lambda own: " ".join(f"{a}={b}" for a, b in sorted(own)))
def test_a_pair_that_is_refused_is_refused_before_anything_begins(refused: Pair, recipes: dict[str, Path]) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(str(recipes["classifier"]), [f"{name}={value}" for name, value in sorted(refused)])
    (problem,) = error.value.problems
    assert REFUSED[refused] in problem.where


def test_every_pair_is_in_a_run_or_refused() -> None:
    found = {own for kind, choice in RUNS if kind == "classifier" for own in pairs_in(choice)}
    assert found >= all_pairs(VALUES) - set(PAIRS)
    assert not found & set(REFUSED)


TOGETHER = {
    "packed, grouped, streamed, offloaded": (
        "classifier", ("train.packing=true", "train.group_by_length=true", "model.streaming=host", "method.name=dora",
                       "train.offload_activations=true", "train.micro_batch_size=5")),
    "trimmed, recomputed, streamed, moved": (
        "classifier", ("train.trim_last_block=true", "train.gradient_checkpointing=true", "model.streaming=host",
                       "method.name=pissa", "train.offload_activations=true", "model.quantization=nf4")),
    "packed texts, grouped, streamed, of chosen ranks": (
        "language model", ("train.packing=true", "train.group_by_length=true", "model.streaming=host",
                           "method.name=eva", "train.offload_activations=true", "model.quantization=nf4")),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "settings"), TOGETHER.values(), ids=TOGETHER)
def test_a_run_with_dropout_is_continued_to_the_bit_and_serves_as_a_resident_one(
    kind: str,
    settings: tuple[str, ...],
    acted: Counter[str],
    recipes: dict[str, Path],
    reflora: Reflora,
    tmp_path: Path,
) -> None:
    own = (*settings, "method.dropout=0.1", "eval.every=2", "eval.protocol=choices")
    run = train(reflora, recipes[kind], tmp_path / f"{kind} streamed", *own)
    part = train(reflora, recipes[kind], killed(run, tmp_path / "part", 1), *own, "--resume")
    assert (part / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    assert step_losses(part) == step_losses(run)
    assert acted["model.streaming"]

    resident = shutil.copytree(run, tmp_path / "resident")
    text = (run / "recipe.yaml").read_text()
    assert "streaming: host" in text
    (resident / "recipe.yaml").write_text(text.replace("streaming: host", "streaming: none"))
    acted.clear()
    asked = tmp_path / "asked.jsonl"
    task = "entailment" if kind == "classifier" else "questions"
    asked.write_text("".join(f"{json.dumps(dict(row))}\n" for row in list(rows(task, "validation"))[:5]))
    for command in (("eval", run, "--json"), ("predict", run, asked), ("chat", run)):
        check_alike(command, resident, acted, reflora)
    merged = [tmp_path / f"merged {one.name}" for one in (run, resident)]
    for one, place in zip((run, resident), merged, strict=True):
        outcome = reflora("merge", one, "--output", place)
        assert outcome.status == 0, outcome.err
    assert (merged[0] / "model.safetensors").read_bytes() == (merged[1] / "model.safetensors").read_bytes()


def check_alike(command: tuple[object, ...], resident: Path, acted: Counter[str], reflora: Reflora) -> None:
    """Compare what a command says of a streamed run with what it says of its resident copy."""
    name, run, *rest = command
    expected = chat(resident) if name == "chat" else reflora(name, resident, *rest)
    acted.clear()
    found = chat(run) if name == "chat" else reflora(name, run, *rest)
    if name == "chat" and "classifier" in str(run):
        assert found.status == expected.status == 2
        return
    assert acted["model.streaming"]
    assert found.status == 0, found.err
    said = [own.out.replace(str(place), "RUN") for own, place in ((found, run), (expected, resident))]
    assert re.sub(SECONDS, "", said[0]) == re.sub(SECONDS, "", said[1])


def chat(run: object) -> Outcome:
    """What a model says, with and without its adapter."""
    result = CliRunner().invoke(app, ["chat", str(run), "--compare", "--max-new-tokens", "4"], input=b"Where is it?\n")
    return Outcome(result.exit_code, result.stdout, result.stderr)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("classifier", ("train.packing=true", "model.streaming=disk", "train.gradient_checkpointing=true")),
        ("classifier", ("train.trim_last_block=true", "model.streaming=host", "train.offload_activations=true",
                        "model.quantization=nf4")),
        ("language model", ("train.packing=true", "model.streaming=host", "train.group_by_length=true",
                            "train.gradient_checkpointing=true")),
    ],
    ids=["packed", "trimmed", "packed texts"],
)  # fmt: skip
def test_two_processes_take_the_steps_of_a_plain_run(
    kind: str, settings: tuple[str, ...], recipes: dict[str, Path], plain: Losses, tmp_path: Path
) -> None:
    chosen = {name: PLAIN[name] for name in WHAT_IS_LEARNT} | dict(own.split("=") for own in settings)
    losses, _ = plain(kind, chosen)
    arguments = [f"{name}={value}" for name, value in chosen.items()]
    run_by_two("train", recipes[kind], *arguments, "train.micro_batch_size=5", "--output", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["processes"] == 2
    assert step_losses(tmp_path / "run") == pytest.approx(losses, abs=1e-5)
