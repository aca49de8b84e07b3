"""Classifiers whose rows are computed without padding: results, gradients and steps of padded rows, or a refusal."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reflora_cli.ground.errors import InputError
from reflora_cli.methods.layers import LAYERS
from reflora_cli.model.packed_attention import plain_name
from reflora_cli.model.packing import TOKENS, Packing, Way
from tests.classifiers import base, objective, rows_of
from tests.method_runs import Training
from tests.method_table import ADAPTIVE, Case
from tests.models import batch

PACKED = (
    "albert", "bert", "roberta", "distilbert", "electra", "modernbert", "deberta", "deberta-v2", "bart", "t5", "gpt2",
    "llama", "qwen2", "gemma", "gemma3", "mistral-window", "opt", "bloom", "mixtral",
)  # fmt: skip
WHOLE = ("deberta", "deberta-v2", "bloom", "t5")
"""Those whose attention modules see padding: their attention is code of their own."""
REFUSED = {"convbert": "rows of one length only", "jamba": "other results", "xlnet": "other results"}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
    model.zero_grad()
    return found


CASES = [
    (name, recomputed) for name in PACKED for recomputed in (False, True) if (name, recomputed) != ("albert", True)
]
"""Transformers cannot recompute ALBERT's activations."""


@pytest.mark.parametrize(("name", "recomputed"), CASES)
def test_loss_and_gradients_are_those_of_rows_alone(name: str, recomputed: bool) -> None:
    """By plain transformers, which has no part of ours: each row by itself."""
    own = base(name)
    rows, model = rows_of(own), own.model
    alone = [copy.deepcopy(model)(torch.tensor(row.input_ids[None].astype("int64"))).logits for row in rows]
    plain: Any = copy.deepcopy(model)
    expected = sum(
        F.cross_entropy(plain(torch.tensor(row.input_ids[None].astype("int64"))).logits, torch.tensor([int(row.label)]))  # type: ignore[arg-type]
        for row in rows
    )
    assert isinstance(expected, Tensor)
    expected.backward()
    found = objective(own)
    found.pack()
    if recomputed:
        own.recompute_activations()
    loss = found.loss_module.train()(**found.step_arguments(rows))
    loss.backward()
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    wanted, got = gradients(plain), gradients(model)
    assert {key for key, own in wanted.items() if own.any()} <= got.keys()
    for key in got:
        torch.testing.assert_close(got[key], wanted[key], atol=1e-5, rtol=1e-4, msg=key)
    torch.testing.assert_close(found.predict(rows, 5), torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bert", "deberta-v2", "llama", "modernbert"])
def test_blocks_compute_no_padding(name: str) -> None:
    own = base(name)
    rows, shapes = rows_of(own), set()
    found = objective(own)
    found.pack()
    body = getattr(own.model, own.model.base_model_prefix)
    blocks = next(module for module in body.modules() if isinstance(module, nn.ModuleList))
    for module_name, module in blocks.named_modules():
        if isinstance(module, nn.Linear) and (name not in WHOLE or "attention.self" not in module_name):
            module.register_forward_hook(lambda _, args, __: shapes.add(tuple(args[0].shape[:2])))
    found.loss_module(**found.step_arguments(rows))
    assert shapes == {(1, sum(len(row.input_ids) for row in rows))}
    assert TOKENS not in found.step_arguments(rows[:1]), "a batch without padding is not packed"


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_without_equal_results_is_refused_and_left_as_it_was(name: str) -> None:
    own = base(name)
    found, before = objective(own), own.model.config._attn_implementation
    expected = found.predict(rows_of(own), 2)
    with pytest.raises(InputError, match=REFUSED[name]) as refused:
        found.pack()
    assert refused.value.problems[0].where == "train.packing"
    assert own.model.config._attn_implementation == before
    assert not [1 for module in own.model.modules() if module._forward_pre_hooks]
    torch.testing.assert_close(found.predict(rows_of(own), 2), expected, atol=0, rtol=0)


def chosen(case: Case) -> bool:
    """Every layer with AdamW, every update rule on LoRA, and three methods on quantized and half bases."""
    method = case.method
    if method.layer.is_virtual:
        return False
    if case.base != "float32":
        return case.base in ("nf4", "bfloat16") and method.name in ("lora", "dora", "reflora")
    return method.start.kind == "default" and (method.update.is_plain or method.layer.kind == "lora")


def losses(case: Case, is_packed: bool) -> list[float]:
    training = Training(case)
    training.model.train()
    if is_packed:
        Packing(training.model, Way.FUNCTION)
    found = []
    for step in range(20):
        inputs, labels = batch(seed=step, rows=8)
        if is_packed:
            inputs[TOKENS] = inputs["attention_mask"].flatten().nonzero()[:, 0]
        found.append(training.learn(inputs, labels))
    return found


@pytest.mark.parametrize("case", [case for case in ADAPTIVE if chosen(case)], ids=str)
def test_twenty_steps_are_those_of_padded_rows(case: Case) -> None:
    """bfloat16 rounds by 2^-8: sums of another order may round otherwise in some places, and twenty steps carry it."""
    padded, packed = losses(case, False), losses(case, True)
    assert max(padded) - min(padded) > 0.05, "nothing was learned"
    assert packed == pytest.approx(padded, abs=2e-2 if case.base == "bfloat16" else 1e-5)


def test_all_layers_and_rules_are_among_the_cases() -> None:
    cases = [case.method for case in ADAPTIVE if chosen(case)]
    assert {own.layer.kind for own in cases} == {kind for kind, layer in LAYERS.items() if not layer.is_virtual}


def test_names_of_attention_are_transformers_own() -> None:
    own = base("bert")
    objective(own).pack()
    assert own.model.config._attn_implementation != "sdpa"
    assert plain_name(own.model.config._attn_implementation) == "sdpa"


@pytest.mark.parametrize("name", ["bert", "deberta-v2"])
def test_a_packed_model_is_given_back_with_its_objective(name: str) -> None:
    """What attention is told of a module's batch does not keep the module."""
    own = base(name)
    found = objective(own)
    found.pack()
    found.loss_module(**found.step_arguments(rows_of(own)))
    gone = weakref.ref(own.model)
    del own, found
    gc.collect()
    assert gone() is None
