"""Virtual tokens: the same as real ones before a row, the same as PEFT's, and unseen by whoever calls the model."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import adapter_tensors, read_adapter, write_adapter, write_adapter_config
from reflora_cli.adapter_io.formats import adapter_config
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapter_io.peft_rules import unreadable
from reflora_cli.adapter_io.virtual import virtual_tokens
from reflora_cli.adapters.prefix import PrefixTokens
from reflora_cli.adapters.prompt import PromptTokens
from reflora_cli.adapters.start import generator_for
from reflora_cli.adapters.virtual import VirtualTokens
from reflora_cli.ground.errors import InputError
from reflora_cli.methods.method import Method
from tests import language_models
from tests.architectures import DECODERS, ENCODERS
from tests.models import HEADS, batch, descend, injected, make
from tests.random_models import classifier, language_model

pytestmark = pytest.mark.filterwarnings("ignore:`past_key_values` is deprecated:FutureWarning")  # in PEFT
DECODING = ["llama", "gpt2", "qwen2", "gpt-neox"]
LAYERS: dict[str, dict[str, Any]] = {
    "prompt": {"kind": "prompt", "tokens": 5},
    "prefix": {"kind": "prefix", "tokens": 5},
    "projected": {"kind": "prefix", "tokens": 5, "projection": 6},
}


def before(model: nn.Module, layer: str, seed: int = 1) -> VirtualTokens:
    """Put virtual tokens before a model's rows."""
    own = LAYERS[layer]
    return virtual_tokens(injected(model, Method(name=own["kind"], layer=own), [], [], seed=seed))


def by_peft(base: nn.Module, layer: str, task_type: str, tokens: VirtualTokens) -> Any:
    """The same through PEFT."""
    common = {"task_type": task_type, "num_virtual_tokens": tokens.count}
    if layer == "prompt":
        config: peft.PeftConfig = peft.PromptTuningConfig(**common)
    else:
        projected = {"prefix_projection": True, "encoder_hidden_size": 6} if layer == "projected" else {}
        config = peft.PrefixTuningConfig(**common, **projected)
    model = peft.get_peft_model(base, config)
    encoder = model.prompt_encoder["default"]
    with torch.no_grad():
        encoder.embedding.weight.copy_(tokens.get_parameter("embedding"))
        if layer == "projected":
            for own, key in ((encoder.transform[0], "down"), (encoder.transform[2], "up")):
                own.weight.copy_(tokens.get_parameter(f"{key}.weight"))
                own.bias.copy_(tokens.get_parameter(f"{key}.bias"))
    return model


def answered(model: nn.Module, steps: int = 20) -> list[float]:
    """Losses of a language model over some steps, each on its own batch of padded rows."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    losses = []
    model.train()
    for step in range(steps):
        inputs, _ = batch(seed=step)
        length = inputs["input_ids"].shape[1]
        logits = model(**inputs).logits[:, -length:]
        targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", DECODING)
def test_twenty_steps_of_a_decoder_are_those_of_peft(name: str, layer: str) -> None:
    base = language_models.make(name)
    ours = copy.deepcopy(base)
    tokens = before(ours, layer)
    first = tokens.written().detach().clone()
    theirs = by_peft(base, layer, "CAUSAL_LM", tokens)
    assert answered(ours) == pytest.approx(answered(theirs), abs=1e-5)
    assert (tokens.written() - first).abs().max() > 1e-2
    torch.testing.assert_close(
        tokens.written().detach(), theirs.get_prompt_embedding_to_save("default"), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", ["bert", "deberta"])
def test_twenty_steps_of_an_encoder_are_those_of_peft(name: str) -> None:
    base = make(name).requires_grad_(False)
    ours = copy.deepcopy(base)
    tokens = before(ours, "prompt")
    theirs = by_peft(base, "prompt", "SEQ_CLS", tokens)
    for parameter in theirs.base_model.parameters():  # PEFT trains a classifier's head unasked
        parameter.requires_grad_(False)
    assert descend(ours) == pytest.approx(descend(theirs), abs=1e-5)
    torch.testing.assert_close(
        tokens.written().detach(), theirs.get_prompt_embedding_to_save("default"), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("name", [*DECODING, "bert", "deberta"])
def test_a_prompt_drawn_from_the_vocabulary_is_those_tokens(name: str) -> None:
    """The base reads the same rows behind the same tokens as real ones."""
    base: Any = language_models.make(name) if name in DECODING else make(name)
    model = copy.deepcopy(base)
    tokens = before(model, "prompt", seed=3)
    path = next(path for path, own in model.named_modules() if own is tokens)
    drawn = torch.randint(base.config.vocab_size, (5,), generator=generator_for(3, path))
    inputs, _ = batch()
    longer = {
        "input_ids": torch.cat([drawn.expand(6, -1), inputs["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones(6, 5, dtype=torch.long), inputs["attention_mask"]], dim=1),
    }
    found, expected = model.eval()(**inputs).logits, base.eval()(**longer).logits
    if name in DECODING:
        seen = inputs["attention_mask"].bool()
        found, expected = found[seen], expected[:, 5:][seen]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", DECODING)
def test_a_prefix_of_the_keys_of_tokens_is_those_tokens(name: str) -> None:
    base: Any = language_models.make(name).eval()
    model = copy.deepcopy(base)
    tokens = before(model, "prefix")
    assert isinstance(tokens, PrefixTokens)
    ids = torch.tensor([[7, 3, 9, 11, 2]])
    kept = base(input_ids=ids, use_cache=True)
    cache = kept.cache if "cache" in kept else kept.past_key_values
    assert isinstance(cache, DynamicCache)
    pairs = [own[0].transpose(0, 1).flatten(1) for layer in cache.layers for own in (layer.keys, layer.values)]
    tokens.read(torch.cat(pairs, dim=1))
    inputs, _ = batch()
    longer = torch.cat([ids.expand(6, -1), inputs["input_ids"]], dim=1)
    mask = torch.cat([torch.ones(6, 5, dtype=torch.long), inputs["attention_mask"]], dim=1)
    expected = base(input_ids=longer, attention_mask=mask).logits[:, 5:]
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(model(**inputs).logits[seen], expected[seen], atol=1e-5, rtol=1e-5)


def left_padded() -> dict[str, Tensor]:
    return {key: own.flip(1) for key, own in batch()[0].items()}


@pytest.mark.parametrize(
    ("name", "layer"),
    [*itertools.product(DECODING, LAYERS), *((name, "prompt") for name in ("mistral-window", "gemma2", "jamba"))],
)
def test_texts_are_written_the_same_alone_together_and_without_a_cache(name: str, layer: str) -> None:
    model: Any = language_models.make(name) if name in DECODING else language_model(DECODERS[name])
    before(model, layer)
    inputs, search = left_padded(), {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    model.eval()
    written = model.generate(**inputs, **search)[:, -6:]
    assert torch.equal(written, model.generate(**inputs, **search, use_cache=False)[:, -6:])
    for row, mask, expected in zip(inputs["input_ids"], inputs["attention_mask"].bool(), written, strict=True):
        ids = row[mask][None]
        alone = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **search)
        assert torch.equal(alone[0, -6:], expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_decoder_that_classifies_reads_rows_whatever_stands_around_them(layer: str) -> None:
    """PEFT's own prompt tuning reads the last place of a padded row here: it is padding, so we do not follow."""
    base = make("llama")
    model = copy.deepcopy(base).eval()
    tokens = before(model, layer)
    inputs, _ = batch()
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    alone = torch.cat([model(input_ids=row[mask][None]).logits for row, mask in rows])
    for together in (inputs, left_padded_rows(inputs)):
        torch.testing.assert_close(model(**together).logits, alone, atol=1e-5, rtol=1e-5)
    if layer == "prompt":
        theirs = by_peft(base, layer, "SEQ_CLS", tokens).eval()(**inputs).logits
        full = inputs["attention_mask"].all(dim=1)
        torch.testing.assert_close(theirs[full], alone[full], atol=1e-5, rtol=1e-5)
        assert (theirs[~full] - alone[~full]).abs().max() > 0.1
    assert "do not work with a decoder that classifies" in unreadable(model, {"": tokens})
    assert not unreadable(language_models.make("llama"), {"": tokens})


def left_padded_rows(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows in their order, with the padding before them."""
    shifts = [int((mask == 0).sum()) for mask in inputs["attention_mask"]]
    rolled = {
        key: torch.stack([row.roll(shift) for row, shift in zip(own, shifts, strict=True)])
        for key, own in inputs.items()
    }
    assert not rolled["attention_mask"][:, 0].all()
    return rolled


@pytest.mark.parametrize("layer", LAYERS)
def test_a_copy_of_the_model_has_tokens_of_its_own(layer: str) -> None:
    model = language_models.make("llama").eval()
    tokens = before(model, layer)
    inputs, _ = batch()
    twin = copy.deepcopy(model)
    first = model(**inputs).logits
    assert torch.equal(twin(**inputs).logits, first)
    with torch.no_grad():
        tokens.get_parameter("embedding").add_(1.0)
    assert torch.equal(twin(**inputs).logits, first)
    assert not torch.allclose(model(**inputs).logits, first, atol=1e-3)


@pytest.mark.parametrize("layer", LAYERS)
def test_files_are_read_by_peft_and_back(layer: str, tmp_path: Path) -> None:
    """A projection is written as what it makes."""
    base = language_models.make("llama")
    model = copy.deepcopy(base).eval()
    method = Method(name=LAYERS[layer]["kind"], layer=LAYERS[layer])
    adapted = injected(model, method, [], [], seed=2)
    write_adapter(tmp_path, adapter_tensors(model, adapted, []))
    config = adapter_config(model, adapted, method, [], NamedBase("base", None), "CAUSAL_LM")
    write_adapter_config(tmp_path, config, {})
    inputs, _ = batch()
    expected = model(**inputs).logits
    loaded = copy.deepcopy(base).eval()
    load_adapter(loaded, read_adapter(tmp_path), [])
    with pytest.raises(InputError, match=r"do not fit the module|cannot be put before|prefix tuning is not possible"):
        load_adapter(make("bert"), read_adapter(tmp_path), [])
    torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-6, rtol=0)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path).eval()
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(theirs(**inputs).logits[:, -9:][seen], expected[seen], atol=1e-5, rtol=1e-5)
    kinds = {config.peft_type.value: set(config.to_dict()) for config in theirs.peft_config.values()}
    assert set(config) - kinds[method.layer.peft_type] == set()


@pytest.mark.parametrize("layer", LAYERS)
def test_what_peft_has_made_is_read(layer: str, tmp_path: Path) -> None:
    base = language_models.make("gpt2")
    tokens = before(copy.deepcopy(base), layer)
    theirs = by_peft(copy.deepcopy(base), layer, "CAUSAL_LM", tokens).eval()
    theirs.save_pretrained(tmp_path)
    inputs, _ = batch()
    expected = theirs(**inputs).logits[:, -9:]
    model = copy.deepcopy(base).eval()
    adapted = load_adapter(model, read_adapter(tmp_path), [])
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(model(**inputs).logits[seen], expected[seen], atol=1e-5, rtol=1e-5)
    assert [type(own) for own in adapted.layers.values()] == [type(tokens)]


def test_a_classifier_s_head_travels_as_in_peft(tmp_path: Path) -> None:
    base = make("bert")
    theirs = peft.get_peft_model(
        copy.deepcopy(base), peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=4)
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    model = copy.deepcopy(base).eval()
    load_adapter(model, read_adapter(tmp_path), HEADS["bert"])
    inputs, _ = batch()
    torch.testing.assert_close(model(**inputs).logits, theirs(**inputs).logits, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer", "said"),
    [
        ("t5", "prompt", "cannot be put before the rows"),
        ("mamba", "prompt", "cannot be put before the rows"),
        ("rwkv", "prompt", "cannot be put before the rows"),
        ("bloom", "prompt", "cannot be put before the rows"),
        ("bert", "prefix", "prefix tuning is not possible.*\n.*\n.*an encoder"),
        ("deepseek-v3", "prefix", "prefix tuning is not possible"),
        ("recurrentgemma", "prefix", "cannot be put before the|prefix tuning is not possible"),
        ("mistral-window", "prefix", "sliding-window attention"),
    ],
)
def test_models_that_cannot_read_them_are_refused(name: str, layer: str, said: str) -> None:
    model = classifier(ENCODERS[name]) if name in ENCODERS else language_model(DECODERS[name])
    with pytest.raises(InputError, match=said):
        before(model, layer)


def test_a_prompt_starts_at_embeddings_or_normal() -> None:
    model = language_models.make("llama")
    method = Method(name="prompt", layer={"kind": "prompt", "tokens": 400, "init": "normal"})
    normal = virtual_tokens(injected(copy.deepcopy(model), method, [], [])).written()
    assert 0.9 < normal.std() < 1.1
    drawn = before(model, "prompt")
    assert isinstance(drawn, PromptTokens)
    table = model.get_input_embeddings().weight
    assert all((row == table).all(dim=1).any() for row in drawn.written())
