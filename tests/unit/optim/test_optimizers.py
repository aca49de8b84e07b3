"""RefLoRA as a torch optimizer over our layers and PEFT's: what it finds, the Trainer, and what it refuses."""

from __future__ import annotations

import copy
from collections import OrderedDict
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainingArguments, get_linear_schedule_with_warmup

from reflora_cli import FactorPair, InputError, LoRARITE, RefLoRA, RefLoRASGD, Roles, adapt, roles_of
from reflora_cli.adapters.dora import DoRALinear
from tests.models import batch, make

STEPS, ROWS = 20, 4
SETTINGS: dict[str, Any] = {"lr": 1e-2, "warmup_steps": 4, "interval": 2, "weight_decay": 0.1, "head_lr": 5e-3}


def rows(count: int) -> list[dict[str, Tensor]]:
    """Padded rows with labels."""
    inputs, labels = batch(seed=5, rows=count)
    return [{key: values[n] for key, values in (inputs | {"labels": labels}).items()} for n in range(count)]


def with_peft(base: nn.Module, **changed: Any) -> Any:
    """The model with PEFT's adapters and its head trained whole."""
    settings = {"r": 4, "lora_alpha": 8.0, "target_modules": ["query", "value"], "modules_to_save": ["classifier"]}
    return peft.get_peft_model(base, peft.LoraConfig(task_type="SEQ_CLS", **(settings | changed)))


def trainer(model: nn.Module, optimizer: torch.optim.Optimizer, directory: Path, **changed: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_steps": STEPS,
        "per_device_train_batch_size": ROWS,
        "lr_scheduler_type": "linear",
        "train_sampling_strategy": "sequential",
        "max_grad_norm": 0.5,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    arguments = TrainingArguments(str(directory), **(settings | changed))
    made = Trainer(model, arguments, train_dataset=rows(STEPS * ROWS), optimizers=(optimizer, None))
    made.remove_callback(PrinterCallback)
    return made


def trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("optimizer", "update", "layer"),
    [
        (RefLoRA, "reflora", "lora"),
        (RefLoRA, "reflora", "dora"),
        (RefLoRA, "reflora-s", "lora"),
        (RefLoRA, "scaled-gd", "lora"),
        (RefLoRASGD, "reflora", "lora"),
    ],
)
def test_peft_s_layers_in_the_trainer_step_as_ours_in_a_loop(
    optimizer: Any, update: Any, layer: Any, tmp_path: Path
) -> None:
    """Twenty steps with clipping and a schedule, from equal factors: every trained parameter agrees to 1e-5."""
    base = make("bert").eval()
    ours, theirs = copy.deepcopy(base), with_peft(base, use_dora=layer == "dora")
    adapted = adapt(ours, ["query", "value"], rank=4, layer=layer, trainable=["classifier"])
    modules = dict(theirs.base_model.model.named_modules())
    for path, own in adapted.layers.items():
        modules[path].lora_A["default"].weight.data.copy_(own.A.data)

    settings = SETTINGS | {"lr": 0.5 if optimizer is RefLoRASGD else 1e-2}
    their_optimizer = optimizer(theirs, update=update, **settings)
    trainer(theirs, their_optimizer, tmp_path).train()

    own_optimizer = optimizer(ours, update=update, **settings)
    scheduler = get_linear_schedule_with_warmup(own_optimizer, 0, STEPS)
    data = rows(STEPS * ROWS)
    ours.train()
    for step in range(STEPS):
        chosen = data[step * ROWS : (step + 1) * ROWS]
        ours(**{key: torch.stack([row[key] for row in chosen]) for key in chosen[0]}).loss.backward()
        nn.utils.clip_grad_norm_(adapted.parameters.values(), 0.5)
        own_optimizer.step()
        scheduler.step()
        own_optimizer.zero_grad()

    assert own_optimizer.rule.tensors()["steps"] == their_optimizer.rule.tensors()["steps"] == STEPS
    for path, own in adapted.layers.items():
        found = modules[path]
        assert own.B.abs().max() > 1e-3
        torch.testing.assert_close(found.lora_A["default"].weight, own.A, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.lora_B["default"].weight, own.B, atol=1e-5, rtol=0)
        if isinstance(own, DoRALinear):
            magnitude = found.lora_magnitude_vector["default"].weight
            torch.testing.assert_close(magnitude, own.magnitude, atol=1e-5, rtol=0)
    head = modules["classifier"].modules_to_save["default"]
    torch.testing.assert_close(head.weight, ours.classifier.weight, atol=1e-5, rtol=0)


def with_ours(base: nn.Module, lora_dropout: float) -> nn.Module:
    adapt(base, ["query", "value"], rank=4, layer="dora", dropout=lora_dropout, trainable=["classifier"])
    return base


@pytest.mark.parametrize(
    ("adapted", "update", "stop"),
    [(with_peft, "reflora", 3), (with_peft, "reflora", 9), (with_peft, "reflora-s", 9), (with_ours, "reflora", 9)],
)
def test_a_run_that_the_trainer_resumes_equals_one_that_was_not_stopped(
    adapted: Any, update: Any, stop: int, tmp_path: Path
) -> None:
    """To the bit, with dropout; stopped within the rule's warm-up, and between two computations of S."""
    base = make("bert")

    def fresh() -> Any:
        torch.manual_seed(1)
        model = adapted(copy.deepcopy(base), lora_dropout=0.1)
        return model, RefLoRA(model, update=update, **SETTINGS | {"interval": 3})

    saving = {"save_strategy": "steps", "save_steps": stop, "train_sampling_strategy": "random", "max_steps": 12}
    model, optimizer = fresh()
    trainer(model, optimizer, tmp_path, **saving).train()
    resumed, optimizer = fresh()
    trainer(resumed, optimizer, tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{stop}"))

    assert optimizer.rule.tensors()["steps"] == 12
    expected = trained(model)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in trained(resumed).items())


@pytest.mark.parametrize("layer", ["lora", "dora"])
def test_lora_rite_in_the_trainer_steps_peft_s_layers_as_ours_in_a_loop(layer: Any, tmp_path: Path) -> None:
    """Ten steps with a schedule, without clipping, from other factors of the same B = 0: products agree."""
    base = make("bert").eval()
    ours, theirs = copy.deepcopy(base), with_peft(base, use_dora=layer == "dora")
    adapted = adapt(ours, ["query", "value"], rank=4, layer=layer, trainable=["classifier"])
    modules = dict(theirs.base_model.model.named_modules())
    mix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    for path, own in adapted.layers.items():
        modules[path].lora_A["default"].weight.data.copy_(mix @ own.A.data)
    settings: Any = {"weight_decay": 0.1, "head_lr": 5e-3, "lr_ratio": 2.0}
    trainer(theirs, LoRARITE(theirs, 1e-2, **settings), tmp_path, max_steps=10, max_grad_norm=0.0).train()

    optimizer = LoRARITE(ours, 1e-2, **settings)
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, 10)
    data = rows(STEPS * ROWS)
    ours.train()
    for step in range(10):
        chosen = data[step * ROWS : (step + 1) * ROWS]
        ours(**{key: torch.stack([row[key] for row in chosen]) for key in chosen[0]}).loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    for path, own in adapted.layers.items():
        found = modules[path].lora_B["default"].weight @ modules[path].lora_A["default"].weight
        assert (own.B @ own.A).norm() > 1e-2
        assert (found - own.B @ own.A).norm() < 1e-3 * (own.B @ own.A).norm()
        if isinstance(own, DoRALinear):
            magnitude = modules[path].lora_magnitude_vector["default"].weight
            torch.testing.assert_close(magnitude, own.magnitude, atol=1e-4, rtol=0)
    for group in optimizer.param_groups:
        key = "second_moment" if group["name"].startswith("factors") else "exp_avg_sq"
        assert all(key in optimizer.state[parameter] for parameter in group["params"])
    names = {group["name"] for group in optimizer.param_groups}
    assert names == {
        "factors A",
        "factors B",
        "head",
        "head, undecayed",
        *(["adapters, undecayed"] if layer == "dora" else []),
    }


def test_a_run_of_lora_rite_that_the_trainer_resumes_equals_one_that_was_not_stopped(tmp_path: Path) -> None:
    base = make("bert")

    def fresh() -> Any:
        torch.manual_seed(1)
        model = with_peft(copy.deepcopy(base), lora_dropout=0.1, use_dora=True)
        return model, LoRARITE(model, 1e-2, weight_decay=0.1)

    saving = {"save_strategy": "steps", "save_steps": 5, "train_sampling_strategy": "random", "max_steps": 12}
    model, optimizer = fresh()
    trainer(model, optimizer, tmp_path, **saving).train()
    resumed, optimizer = fresh()
    trainer(resumed, optimizer, tmp_path, **saving).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    expected = trained(model)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in trained(resumed).items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"damping": 1.0}, "where: damping\n"),
        ({"lr": -1.0}, "where: lr\n"),
        ({"lr_ratio": -1.0}, "where: lr_ratio\n"),
    ],
)
def test_arguments_of_lora_rite_out_of_range_are_refused(arguments: Any, words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    adapt(model, rank=2)
    with pytest.raises(InputError, match=words):
        LoRARITE(model, **arguments)


def test_lora_rite_is_refused_without_pairs_and_with_ranks_too_large() -> None:
    with pytest.raises(InputError, match="no pair of low-rank factors"):
        LoRARITE(nn.Linear(3, 3))
    model = nn.Sequential(nn.Linear(4, 3))
    adapt(model, rank=4)
    with pytest.raises(InputError, match=r"rank 4(.|\n)*at most 3"):
        LoRARITE(model)
    pair = FactorPair("mine", nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(3, 2)), 1.0)
    assert [group["name"] for group in LoRARITE(Roles([pair])).param_groups] == ["factors A", "factors B"]


def test_every_trained_parameter_of_a_peft_model_has_its_role() -> None:
    model = with_peft(make("bert"), use_dora=True, bias="lora_only")
    optimizer = RefLoRA(model, 1e-3, lr_ratio=16.0, head_lr=1e-4, weight_decay=0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = {group["name"]: group for group in optimizer.param_groups}
    kinds = {
        "factors A": "lora_A",
        "factors B": "lora_B",
        "adapters, undecayed": "lora_magnitude_vector",
        "head": "classifier",
    }
    for group, part in kinds.items():
        assert {part in names[id(parameter)] for parameter in groups[group]["params"]} == {True}
    assert {names[id(p)].rpartition(".")[2] for p in groups["head, undecayed"]["params"]} == {"bias"}
    assert {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()} == {
        "factors A": (1e-3, 0.1),
        "factors B": (16e-3, 0.1),
        "adapters, undecayed": (1e-3, 0.0),
        "head": (1e-4, 0.1),
        "head, undecayed": (1e-4, 0.0),
    }
    members = {id(parameter) for group in groups.values() for parameter in group["params"]}
    assert members == {id(p) for p in model.parameters() if p.requires_grad}


def test_of_several_adapters_only_the_active_ones_step() -> None:
    model = with_peft(make("bert"), modules_to_save=None)
    model.add_adapter("second", peft.LoraConfig(r=2, target_modules=["query"]))
    model.set_adapter("second")
    for parameter in model.parameters():
        parameter.requires_grad_(True)  # whatever a loop did to them
    found = roles_of(model)
    assert {pair.name.rpartition(".")[2] for pair in found.pairs} == {"second"}
    assert {pair.rank for pair in found.pairs} == {2}
    assert not any("default" in name for name in found.others)
    assert any("embeddings" in name for name in found.others)

    model.set_adapter("default")
    assert {pair.name.rpartition(".")[2] for pair in roles_of(model).pairs} == {"default"}
    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(["default", "second"])
    assert {pair.name.rpartition(".")[2] for pair in roles_of(model).pairs} == {"default", "second"}


def test_what_is_no_pair_of_matrices_steps_plainly() -> None:
    """A convolution's adapter, an embedding's, and a factor whose partner is frozen."""

    class Convolving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.embedding = nn.Conv1d(3, 4, 2), nn.Embedding(5, 3)
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    config = peft.LoraConfig(r=2, target_modules=["convolution", "embedding", "first", "second"])
    model: Any = peft.get_peft_model(Convolving(), config)  # type: ignore[arg-type]
    model.base_model.model.second.lora_A.requires_grad_(False)
    found = roles_of(model)
    assert [pair.name.split(".")[-2:] for pair in found.pairs] == [["first", "default"]]
    assert sorted(name.partition("model.model.")[2] for name in found.others) == [
        "convolution.lora_A.default.weight",
        "convolution.lora_B.default.weight",
        "embedding.lora_embedding_A.default",
        "embedding.lora_embedding_B.default",
        "second.lora_B.default.weight",
    ]
    with pytest.warns(
        UserWarning, match=r"5 factors have no partner to form a pair A, B and take plain steps: .*lora_.*\.\.\."
    ):
        RefLoRA(model)


def test_the_factors_of_stacked_experts_are_no_pair() -> None:
    """PEFT keeps those of all experts in one A [experts r, in] and one B [out, r experts]: one S would mix them."""

    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stacked, self.router = nn.Parameter(torch.randn(3, 4, 6)), nn.Linear(6, 3)

    config = peft.LoraConfig(r=2, target_modules=["router"], target_parameters=["stacked"])
    model: Any = peft.get_peft_model(nn.Sequential(OrderedDict(experts=Experts())), config)  # type: ignore[arg-type]
    found = roles_of(model)
    assert {(pair.rank, pair.A.shape[1], pair.B.shape[0]) for pair in found.pairs} == {(2, 6, 3)}
    assert sorted(tuple(parameter.shape) for parameter in found.others.values()) == [(4, 6), (6, 6)]


def test_layers_of_one_s_own_are_named_by_hand() -> None:
    pair = FactorPair("mine", nn.Parameter(torch.randn(2, 5)), nn.Parameter(torch.randn(3, 2)), 1.0)
    head = nn.Parameter(torch.ones(4, 3))
    optimizer = RefLoRA(Roles([pair], others={"head": head}), warmup_steps=0)
    ((pair.B @ pair.A).square().sum() + head.sum()).backward()
    before = pair.A.detach().clone()
    optimizer.step()
    assert not torch.equal(pair.A, before)
    assert [group["name"] for group in optimizer.param_groups] == ["factors A", "factors B", "head"]


@pytest.mark.parametrize("arguments", [{}, {"update": "plain"}])
def test_a_model_without_pairs_is_refused(arguments: Any) -> None:
    with pytest.raises(InputError, match=r"no pair of low-rank factors(.|\n)*2 trained parameters: weight, bias"):
        RefLoRA(nn.Linear(3, 3), **arguments)
    model = with_peft(make("bert"))
    with model.disable_adapter(), pytest.raises(InputError, match="no pair of low-rank factors"):
        RefLoRASGD(model, **arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"update": "lora-rite"}, r"an optimizer of its own(.|\n)*use LoRARITE\(model"),
        ({"update": "refloras"}, "no such update rule(.|\n)*did you mean 'reflora-s'"),
        ({"warmup_steps": -1}, "warmup_steps(.|\n)*greater than or equal to 0"),
        ({"interval": 0}, "interval(.|\n)*greater than or equal to 1"),
        ({"damping": 1.0}, "damping(.|\n)*less than 1 or 'auto'"),
        ({"lr": float("nan")}, "where: lr\n"),
        ({"head_lr": -1.0}, "where: head_lr\n"),
        ({"lr_ratio": -1.0}, "where: lr_ratio\n"),
        ({"weight_decay": float("inf")}, "where: weight_decay\n"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: Any, words: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4))
    adapt(model, rank=2)
    with pytest.raises(InputError, match=words):
        RefLoRA(model, **arguments)


def test_parameters_alone_and_ranks_too_large_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    adapt(model, rank=4)
    with pytest.raises(InputError, match=r"pass the model itself instead of model.parameters\(\)"):
        RefLoRA(model.parameters())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"rank 4(.|\n)*at most 3"):
        RefLoRA(model)
    assert RefLoRA(model, update="reflora-s").rule.tensors()["steps"] == 0
