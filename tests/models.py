"""Small random models with a sequence-classification head, one per layout that adapters must handle."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from transformers import PreTrainedModel

from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.inject import inject, remove_empty
from reflora_cli.adapters.low_rank import hold_first_factors
from reflora_cli.adapters.quantized import quantize
from reflora_cli.adapters.sight import Pass, Sight
from reflora_cli.adapters.start import start
from reflora_cli.methods.layers import LAYERS
from reflora_cli.methods.method import Method
from reflora_cli.methods.updates import UPDATES
from reflora_cli.model.precision import precision
from tests.architectures import DECODERS, ENCODERS
from tests.random_models import classifier, widened

VOCABULARY = 60
MODELS = {
    "bert": ENCODERS["bert"],
    "deberta": ENCODERS["deberta-v2"],
    "gpt2": DECODERS["gpt2"],
    "llama": DECODERS["llama"],
}
ADAPTERS = [kind for kind, layer in LAYERS.items() if not layer.in_place and not layer.is_virtual]
"""The kinds of layers that put modules in the place of linear layers."""
HEADS = {"bert": ["classifier"], "deberta": ["classifier", "pooler"], "gpt2": ["score"], "llama": ["score"]}


def acts_on(update: str, layer: str) -> bool:
    """Whether an update rule has something to act on in a layer."""
    record = LAYERS[layer]
    return UPDATES[update].is_plain or (record.has_frames if UPDATES[update].of_frames else record.has_pairs)


def make(name: str, seed: int = 0) -> PreTrainedModel:
    """The model with weights large enough that adapters and attention matter."""
    torch.manual_seed(seed)
    return widened(classifier(MODELS[name], vocab_size=VOCABULARY, num_labels=3), 0.3)


def quantized(model: PreTrainedModel, kind: str = "int8") -> PreTrainedModel:
    """The model with the linear layers of its body quantized, in place, which know what they were."""
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and name.startswith(f"{model.base_model_prefix}."):
            W = module.weight.detach()
            own = quantize(W, module.bias, kind, double=True, dtype=torch.float32, layout=nn.Linear)
            own.read_original = W.clone
            model.set_submodule(name, own)
    return model


def batch(seed: int = 0, rows: int = 6, length: int = 9) -> tuple[dict[str, Tensor], Tensor]:
    """Padded inputs and labels."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, length - row % 4 :] = 0
    ids = ids * mask
    return {"input_ids": ids, "attention_mask": mask}, torch.randint(0, 3, (rows,), generator=generator)


def injected(
    model: nn.Module,
    method: Method,
    trainable: Sequence[str],
    saved: Sequence[str],
    seed: int = 0,
    left_out: Sequence[str] = (),
    rows: int = 6,
) -> Adapted:
    """The model with its adapters in place and started."""
    adapted = inject(model, method, trainable, saved, left_out)
    start(adapted, method.start, seed, sight_of(model, rows))
    remove_empty(model, adapted)
    if method.update.holds_a:
        hold_first_factors(adapted)
    return adapted


def sight_of(model: nn.Module, rows: int = 6) -> Sight:
    """Endless passes over batches."""

    def passes() -> Iterator[Pass]:
        for seed in itertools.count():
            inputs, labels = batch(seed, rows)
            learned = partial(learning, model, inputs, labels)
            yield Pass(partial(evaluated, model, inputs), inputs["attention_mask"].bool(), rows, learned)

    return Sight(passes(), lambda _: None)


def evaluated(model: nn.Module, inputs: dict[str, Tensor]) -> None:
    """A forward pass in evaluation mode, and back to the mode of before."""
    was_training = model.training
    with precision(torch.device("cpu"), model.dtype):
        model.eval()(**inputs)
    model.train(was_training)


@contextmanager
def learning(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor) -> Iterator[Tensor]:
    """The summed loss of a batch."""
    with precision(torch.device("cpu"), model.dtype):
        logits = model(**inputs).logits
    yield F.cross_entropy(logits.float(), labels, reduction="sum")


def stepped(model: nn.Module, optimizer: Optimizer, steps: int = 20) -> list[float]:
    """The losses of some steps, each on its own batch."""
    losses = []
    model.train()
    for step in range(steps):
        inputs, labels = batch(seed=step)
        loss = F.cross_entropy(model(**inputs).logits, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def descend(model: nn.Module, steps: int = 20) -> list[float]:
    """Losses of some AdamW steps on all that trains, each on its own batch."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return stepped(model, torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0), steps)
