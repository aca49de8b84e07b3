"""The package as a library: what importing it costs and brings, `adapt` on any module, the examples of its page."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import reflora_cli
from reflora_cli import InputError, adapt
from reflora_cli.factors.pair import Role
from reflora_cli.model.sources import BUILTIN

ROOT = Path(__file__).parents[2]
README, LIBRARY = (
    re.findall(r"```python\n(.*?)```", (ROOT / file).read_text(encoding="utf-8"), re.DOTALL)
    for file in ("README.md", "docs/library.md")
)
HEAVY = ["torch", "numpy", "pydantic", "transformers", "accelerate", "peft", "bitsandbytes"]


def loaded_after(statement: str) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_after("import reflora_cli; reflora_cli.InputError") == set()


def test_layers_and_optimizers_need_torch_and_pydantic_alone() -> None:
    statement = "from reflora_cli import RefLoRA, adapt\nfrom torch import nn\nm = nn.Sequential(nn.Linear(4, 4))\n"
    assert loaded_after(f"{statement}adapt(m, rank=2)\nRefLoRA(m)") <= {"torch", "numpy", "pydantic"}


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(reflora_cli, name) is not None for name in reflora_cli.__all__)
    assert set(reflora_cli.__all__) <= set(dir(reflora_cli))
    with pytest.raises(AttributeError, match="no attribute 'RefLora'"):
        reflora_cli.RefLora  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("layer", ["lora", "dora"])
def test_any_module_is_adapted_in_place(layer: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 2))
    x = torch.randn(3, 6)
    before = model(x)
    adapted = adapt(model, ["0", "2"], rank=3, alpha=6.0, scaling="rslora", layer=layer, trainable=["3"])
    torch.testing.assert_close(model(x), before)
    assert [(pair.name, pair.A.shape, pair.B.shape) for pair in adapted.pairs] == [
        ("0", (3, 6), (5, 3)),
        ("2", (3, 5), (4, 3)),
    ]
    assert adapted.pairs[0].scale == pytest.approx(6.0 / 3**0.5)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == adapted.parameters.keys()
    assert trained == {"0.A", "0.B", "2.A", "2.B", "3.weight", "3.bias"} | set(adapted.of_role(Role.UNDECAYED))


def test_everything_linear_is_the_default() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Conv1d(5, 4, 1))
    assert list(adapt(model, rank=2).layers) == ["0"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"targets": "1"}, "matches no linear layer"),
        ({"targets": []}, "names of modules, or all-linear"),
        ({"rank": 0}, "rank(.|\n)*at least 1"),
        ({"alpha": 0.0}, "alpha(.|\n)*above 0"),
        ({"dropout": 1.0}, "dropout(.|\n)*below 1"),
        ({"layer": "kora"}, "layer(.|\n)*did you mean 'lora' or 'dora'"),
        ({"start": "gausian"}, "did you mean 'gaussian'"),
        ({"scaling": "rs"}, "scaling"),
        ({"trainable": ["head"]}, "trainable(.|\n)*'head'"),
    ],
)
def test_wrong_arguments_are_refused_and_change_nothing(arguments: Any, words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(InputError, match=words):
        adapt(model, **arguments)
    assert type(model[0]) is nn.Linear
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_is_adapted_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    adapt(model, rank=2)
    with pytest.raises(InputError, match="a model without adapters"):
        adapt(model, rank=2)


@pytest.mark.filterwarnings("ignore:.*pin_memory")
@pytest.mark.parametrize("example", LIBRARY, ids=["own loop", "PEFT and Trainer"])
def test_the_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(example.replace("Qwen/Qwen2.5-0.5B", str(BUILTIN["tiny-llama"])), names)
    assert len(example.splitlines()) <= 24
    if "trainer" in names:
        assert names["optimizer"].rule.tensors()["steps"] == 20
        assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()
    else:
        assert names["loss"].item() < 6  # it was 12.7 before the first step
        merged = names["AutoModelForCausalLM"].from_pretrained("merged").eval()
        expected = names["model"].eval()(**names["batch"]).logits
        torch.testing.assert_close(merged(**names["batch"]).logits, expected)


def test_a_recipe_is_trained_without_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["task.max_train_rows=16", "task.max_eval_rows=8", "train.epochs=null", "train.steps=2"]
    short = [*rows, "method.refactor.warmup_steps=1", "train.warmup_steps=0"]
    results = reflora_cli.train(reflora_cli.load_recipe("quickstart", short), tmp_path / "run")
    assert results["steps"] == 2
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    assert capsys.readouterr().out == ""


def test_there_are_two_examples_and_the_readme_has_the_first() -> None:
    assert len(LIBRARY) == 2
    assert LIBRARY[:1] == README
