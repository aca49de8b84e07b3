"""The chunked loss: the same value and gradients as transformers' own, with few logits at a time."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.data.encode_prompts import collate_prompts
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from reflora_cli.model.language import check_parts
from reflora_cli.model.precision import Compute
from reflora_cli.objectives import token_loss as module
from reflora_cli.objectives.language import LanguageLoss
from reflora_cli.objectives.token_loss import token_log_likelihoods
from tests.language_models import MODELS, base, make, prompt_row
from tests.models import ADAPTERS, injected

ROWS = [prompt_row([1, 5, 9, 700, 1499, 2], 3), prompt_row([1, 8, 2], 1), prompt_row([1, 7, 7, 7, 2], 2)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two or three tokens in a chunk, so that every loss has several."""
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", {"cpu": 4000})


def adapted(model: nn.Module, layer: str, targets: Any = "all-linear", trained: tuple[str, ...] = ()) -> Adapted:
    method = Method(name="lora", rank=3, layer=layer, targets=targets)
    result = injected(model, method, trained, trained, seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in result.parameters.values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return result


def ours(model: nn.Module) -> Tensor:
    loss: Tensor = LanguageLoss(model)(**collate_prompts(ROWS, pad_token=2))
    return loss


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_smoothed_loss_and_gradient_are_those_of_smoothed_targets(smoothing: float) -> None:
    """In float64, from the distribution over targets written out: 1 - smoothing on one, the rest on all alike."""
    torch.manual_seed(0)
    model = make("llama").double()
    head = model.get_output_embeddings().weight
    hidden = torch.randn(7, head.shape[1], dtype=torch.float64, requires_grad=True)
    targets = torch.randint(head.shape[0], (7,))
    other = hidden.detach().clone().requires_grad_()
    wanted = torch.full((7, head.shape[0]), smoothing / head.shape[0], dtype=torch.float64)
    wanted[torch.arange(7), targets] += 1 - smoothing
    expected = -(wanted * (other @ head.T).log_softmax(-1)).sum()
    (gradient,) = torch.autograd.grad(expected, other)
    loss = module.token_loss(model, hidden, targets, smoothing)
    loss.backward()
    assert hidden.grad is not None
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(hidden.grad, gradient, rtol=1e-5, atol=1e-6 * float(gradient.abs().max()))
    with torch.no_grad():
        torch.testing.assert_close(module.token_loss(model, hidden, targets, smoothing), loss)


def theirs(model: Any) -> Tensor:
    """transformers' mean loss, times the number of supervised tokens."""
    batch = collate_prompts(ROWS, pad_token=2)
    labels = torch.full_like(batch["input_ids"], -100)
    for index, row in enumerate(ROWS):
        begin = row.spans[0][0]
        labels[index, begin : len(row.input_ids)] = torch.tensor(row.input_ids[begin:])
    output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels)
    loss: Tensor = output.loss * sum(row.weight for row in ROWS)
    return loss


def gradients(loss: Tensor, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, found, strict=True))


def check_equal(model: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
    mine, reference = ours(model), theirs(model)
    torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-5)
    own, other = gradients(mine, parameters), gradients(reference, parameters)
    for name, gradient in other.items():
        torch.testing.assert_close(own[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("layer", ADAPTERS)
@pytest.mark.parametrize("name", MODELS)
def test_value_and_gradients_are_those_of_transformers(name: str, layer: str) -> None:
    """Tied embeddings, a soft cap on the logits and every layout of layers included."""
    model = make(name)
    result = adapted(model, layer)
    check_equal(model, result.parameters)


@pytest.mark.parametrize("layer", ADAPTERS)
@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_the_head_itself_may_be_adapted(name: str, layer: str) -> None:
    model = make(name)
    result = adapted(model, layer, targets=("lm_head", "q_proj"))
    assert "lm_head" in result.layers
    check_equal(model, result.parameters)


@pytest.mark.parametrize("name", ["llama", "llama-tied"])
def test_the_head_may_be_trained_in_place(name: str) -> None:
    """A tied one has the gradients of both of its places."""
    model = make(name)
    result = injected(model, Method(name="full"), [], [])
    assert "lm_head.weight" in dict(model.named_parameters(remove_duplicate=False))
    assert ("lm_head.weight" in result.parameters) == (name == "llama")
    check_equal(model, result.parameters)


@pytest.mark.parametrize("name", ["llama", "gpt-neox"])
def test_the_head_may_be_trained_whole(name: str) -> None:
    model: Any = make(name)
    head = next(path for path, child in model.named_modules() if child is model.get_output_embeddings())
    result = adapted(model, "lora", trained=(head,))
    assert f"{head}.weight" in result.parameters
    check_equal(model, result.parameters)


def test_half_precision_stays_near_float32() -> None:
    single, half = make("llama"), make("llama").to(torch.bfloat16)
    parameters = [adapted(model, "lora").parameters for model in (single, half)]
    expected = gradients(ours(single), parameters[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ours(half)
    assert loss.dtype is torch.float32
    found = gradients(loss, parameters[1])
    for name, gradient in expected.items():
        assert found[name].dtype is torch.float32
        difference = (found[name] - gradient).norm() / gradient.norm().clamp_min(1e-3)
        assert difference < 0.1, name


def test_without_gradients_the_value_is_the_same() -> None:
    model = make("gemma2")
    adapted(model, "lora")
    with torch.no_grad():
        alone = ours(model)
    torch.testing.assert_close(alone, ours(model).detach())


def test_no_more_logits_than_a_chunk_exist_at_a_time() -> None:
    sizes: list[int] = []
    alive: list[weakref.ref[Tensor]] = []

    def see(_: nn.Module, __: object, output: Tensor) -> None:
        sizes.append(output.numel())
        alive.append(weakref.ref(output))
        assert sum(ref() is not None for ref in alive) <= 2, "the logits of earlier chunks are still held"

    model: Any = make("llama")
    result = adapted(model, "lora")
    model.get_output_embeddings().register_forward_hook(see)
    loss = ours(model)
    assert max(sizes) <= 4000
    assert sum(sizes) == sum(row.weight for row in ROWS) * 1500
    gc.collect()
    assert not [ref for ref in alive if ref() is not None]
    gradients(loss, result.parameters)
    assert sum(sizes) == sum(row.weight for row in ROWS) * 1500, "the backward pass needs no logits again"


def test_an_overflowing_scale_does_not_reach_half_precision_gradients() -> None:
    """float16's loss scale is larger than its largest number."""
    model = make("llama").to(torch.float16)
    hidden = torch.randn(4, 32, dtype=torch.float16, requires_grad=True)
    loss = module.token_loss(model, hidden, torch.tensor([3, 5, 7, 9]))
    (gradient,) = torch.autograd.grad(loss * 65536.0 / 1000, hidden)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_log_likelihoods_are_those_of_the_softmax() -> None:
    model: Any = make("gemma2")
    ids = torch.tensor([[1, 5, 9, 700]])
    with torch.no_grad():
        expected = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        hidden = model.base_model(ids).last_hidden_state[0, :-1]
    torch.testing.assert_close(token_log_likelihoods(model, hidden, ids[0, 1:]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_body_and_head_are_the_whole_model(name: str) -> None:
    check_parts(base(name), Compute(torch.device("cpu"), torch.float32))


def test_unknown_changes_of_the_logits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = base("llama")
    forward = strange.model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(strange.model, "forward", scaled)
    with pytest.raises(InputError, match="changes its logits"):
        check_parts(strange, Compute(torch.device("cpu"), torch.float32))


@pytest.mark.parametrize(
    ("device", "memory", "elements"),
    [
        ("cpu", None, 1 << 22),
        ("mps", None, 1 << 22),
        ("cuda", None, 1 << 26),
        ("cuda", 140 << 30, 1 << 26),
        ("cuda", 24 << 30, 1 << 25),
        ("cuda", (24 << 30) - (400 << 20), 1 << 24),
        ("cuda", 8 << 30, 1 << 23),
        ("cuda", 1 << 30, 1 << 22),
    ],
)
def test_a_small_gpu_has_fewer_logits_at_a_time(
    device: str, memory: int | None, elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", {"cpu": 1 << 22, "cuda": 1 << 26})
    assert module.chunk_elements(device, memory) == elements
    if memory is not None and elements > 1 << 22:
        assert elements * module.LOGIT_BYTES <= memory / module.MEMORY_SHARE


def test_logits_are_not_moved_with_the_activations_of_a_pass() -> None:
    model: Any = make("llama")
    adapted(model, "lora")
    moved: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        moved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ours(model).backward()
    assert moved
    assert not [shape for shape in moved if shape[-1:] == (model.config.vocab_size,)]
