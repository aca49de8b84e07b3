"""Adapters that PEFT makes and reads, on bases whose modules share parameters; PEFT itself is the reference."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM, MambaConfig, MambaForCausalLM

from reflora_cli.adapter_io.config import NamedBase
from reflora_cli.adapter_io.files import (
    CONFIG,
    PREFIX,
    WEIGHTS,
    TensorFile,
    adapter_tensors,
    read_adapter,
    with_ties,
    write_adapter,
    write_adapter_config,
)
from reflora_cli.adapter_io.formats import adapter_config, read_config
from reflora_cli.adapter_io.loading import load_adapter
from reflora_cli.adapter_io.peft_rules import unreadable
from reflora_cli.adapters.adapted import Adapted
from reflora_cli.adapters.inject import attach, build_layer, freeze
from reflora_cli.adapters.lora import LoRALinear
from reflora_cli.export.peft_view import PeftView
from reflora_cli.ground.errors import InputError, RefloraError
from reflora_cli.methods.axes import Scaling
from reflora_cli.methods.layers import LoRALayer
from reflora_cli.methods.method import Method
from reflora_cli.model.base import Base
from reflora_cli.model.load import load_tokenizer
from reflora_cli.model.precision import Compute
from reflora_cli.model.sources import find_source
from reflora_cli.objectives.pick import kind_of
from reflora_cli.recipe.sections import ModelSection, Recipe
from reflora_cli.tasks.registry import find_task
from tests import language_models
from tests.models import injected

IDS = torch.arange(3, 23)[None]
EMBEDDINGS = {"llama-tied": ("model.embed_tokens", "lm_head"), "gpt2": ("transformer.wte", "lm_head")}
"""The input and the output embedding of bases that tie them."""


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(IDS).logits


@torch.no_grad()
def disturb(parameters: Sequence[nn.Parameter]) -> None:
    torch.manual_seed(1)
    for parameter in parameters:
        parameter.add_(torch.randn_like(parameter) * 0.1)


def made_by_peft(base: nn.Module, directory: Path, **settings: Any) -> Tensor:
    """Save an adapter whose trained parameters are not those at the start; PEFT's logits as it loads it again."""
    model = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(r=2, **settings))
    disturb([parameter for parameter in model.parameters() if parameter.requires_grad])
    model.save_pretrained(directory)
    return read_by_peft(base, directory)


def read_by_peft(base: nn.Module, directory: Path) -> Tensor:
    return logits(peft.PeftModel.from_pretrained(copy.deepcopy(base), directory))


def read_by_us(base: nn.Module, directory: Path) -> Tensor:
    model = copy.deepcopy(base)
    load_adapter(model, read_adapter(directory), [])
    return logits(model)


def trained(base: nn.Module, directory: Path, method: Method, saved: Sequence[str]) -> tuple[nn.Module, Adapted]:
    """A model as training leaves it, its adapter in `directory`. saved: what travels; the first of them is trained."""
    model = copy.deepcopy(base)
    adapted = injected(model, method, saved[:1], saved, seed=0)
    disturb(list(adapted.parameters.values()))
    write_adapter(directory, adapter_tensors(model, adapted, saved))
    config = adapter_config(model, adapted, method, saved, NamedBase("base", None), "CAUSAL_LM")
    write_adapter_config(directory, config, {})
    return model, adapted


@pytest.mark.parametrize("ensured", [False, True])
@pytest.mark.parametrize("chosen", [[0], [1], [0, 1]], ids=["embedding", "head", "both"])
@pytest.mark.parametrize("name", list(EMBEDDINGS))
def test_tied_modules_saved_whole_are_what_peft_makes_of_them(
    name: str, chosen: list[int], ensured: bool, tmp_path: Path
) -> None:
    """PEFT unties what it saves, unless it is told to tie it; it heeds that for Llama's names alone.

    Of GPT-2's head it saves the embedding in its place, and does not find the head's own tensor when it loads them.
    """
    base = language_models.make(name)
    targets = ["q_proj"] if name == "llama-tied" else ["c_attn"]
    saved = [EMBEDDINGS[name][index] for index in chosen]
    theirs = made_by_peft(
        base, tmp_path, target_modules=targets, modules_to_save=saved, ensure_weight_tying=ensured, fan_in_fan_out=True
    )
    if ensured and name == "gpt2" and 1 in chosen:
        with pytest.raises(InputError, match=r"copy of lm_head\.weight differs"):
            read_by_us(base, tmp_path)
        return
    torch.testing.assert_close(read_by_us(base, tmp_path), theirs, atol=2e-5, rtol=1e-5)
    assert float((theirs - logits(base)).abs().max()) > 0.1


@pytest.mark.parametrize("trained_one", [0, 1])
@pytest.mark.parametrize("name", list(EMBEDDINGS))
def test_module_trained_whole_travels_with_those_that_share_its_weight(
    name: str, trained_one: int, tmp_path: Path
) -> None:
    base = language_models.base(name)
    module = EMBEDDINGS[name][trained_one]
    method = Method(name="lora", rank=2, trainable_modules=(module,))
    assert base.trainable(method) == (module,)
    assert set(base.saved(method)) == set(EMBEDDINGS[name])
    saved = [module, EMBEDDINGS[name][1 - trained_one]]
    model, adapted = trained(base.model, tmp_path, method, saved)
    assert list(adapted.others) == [f"{module}.weight"]
    expected = logits(model)
    torch.testing.assert_close(read_by_peft(base.model, tmp_path), expected, atol=2e-5, rtol=1e-5)
    restored = copy.deepcopy(base.model)
    load_adapter(restored, read_adapter(tmp_path), [])
    assert restored.get_input_embeddings().weight is restored.get_output_embeddings().weight
    torch.testing.assert_close(logits(restored), expected, atol=2e-5, rtol=1e-5)


def test_adapter_written_without_the_tied_module_is_still_what_was_trained(tmp_path: Path) -> None:
    """Earlier runs wrote the trained one of two tied modules alone; their record tells them from PEFT's adapters."""
    base = language_models.make("llama-tied")
    model, _ = trained(base, tmp_path, Method(name="lora", rank=2), ["lm_head", "model.embed_tokens"])
    tensors = {key: tensor for key, tensor in load_file(tmp_path / WEIGHTS).items() if "embed_tokens" not in key}
    save_file(tensors, tmp_path / WEIGHTS)
    config = json.loads((tmp_path / CONFIG).read_text()) | {"modules_to_save": ["lm_head"]}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    (tmp_path / "reflora.json").write_text('{"saved_modules": ["lm_head"]}')
    torch.testing.assert_close(read_by_us(base, tmp_path), logits(model), atol=2e-5, rtol=1e-5)
    complete = with_ties(base, ["lm_head", "model.embed_tokens"], tensors)
    assert torch.equal(complete[f"{PREFIX}model.embed_tokens.weight"], tensors[f"{PREFIX}lm_head.weight"])
    (tmp_path / "reflora.json").unlink()
    assert float((read_by_us(base, tmp_path) - logits(model)).abs().max()) > 0.1


def test_both_names_of_a_tied_weight_train_it_once() -> None:
    model = language_models.make("llama-tied")
    adapted = injected(model, Method(name="lora", rank=2), EMBEDDINGS["llama-tied"], EMBEDDINGS["llama-tied"], seed=0)
    assert list(adapted.others) == ["model.embed_tokens.weight"]


def test_targets_that_share_a_weight_are_refused() -> None:
    model = language_models.make("llama")
    first, second = (layer.self_attn for layer in model.model.layers)
    second.q_proj.weight = first.q_proj.weight
    with pytest.raises(InputError, match=r"layers\.0\.self_attn\.q_proj\.weight, model\.layers\.1"):
        injected(model, Method(name="lora", rank=2), [], [], seed=0)
    injected(model, Method(name="lora", rank=2, targets=("k_proj",)), [], [], seed=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_copy_of_the_base_beside_a_lora_on_the_head(dtype: torch.dtype, tmp_path: Path) -> None:
    """PEFT writes the head's own weight too where the head is a target; a base in another precision is still it."""
    base = language_models.make("llama-tied").to(torch.bfloat16).float()
    theirs = made_by_peft(base, tmp_path, target_modules=["q_proj", "lm_head"])
    tensors = load_file(tmp_path / WEIGHTS)
    key = f"{PREFIX}lm_head.base_layer.weight"
    save_file({**tensors, key: tensors[key].to(dtype)}, tmp_path / WEIGHTS)
    torch.testing.assert_close(read_by_us(base, tmp_path), theirs, atol=2e-5, rtol=1e-5)


def change_copy(tensors: dict[str, Tensor]) -> None:
    tensors[f"{PREFIX}lm_head.base_layer.weight"][3, 4] += 0.5


def resize_copy(tensors: dict[str, Tensor]) -> None:
    tensors[f"{PREFIX}model.embed_tokens.weight"] = torch.zeros(1510, 32)


def repeat_without_prefix(tensors: dict[str, Tensor]) -> None:
    key = next(key for key in tensors if key.endswith("lora_A.weight"))
    tensors[key.removeprefix(PREFIX)] = torch.zeros_like(tensors[key])


def rename(old: str, new: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        key = next(key for key in tensors if key.endswith(old))
        tensors[key.removesuffix(old) + new] = tensors.pop(key)

    return change


def enlarge(size: float) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for key in tensors:
            if "lora_" in key:
                tensors[key] *= size

    return change


def break_value(tensors: dict[str, Tensor]) -> None:
    next(tensor for key, tensor in tensors.items() if "lora_B" in key)[0, 0] = float("nan")


CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "trained head": (change_copy, r"adapter's copy of lm_head\.weight differs"),
    "resized embedding": (resize_copy, r"adapter's copy of model\.embed_tokens\.weight differs.*\n.*\n.*\[1510, 32\]"),
    "one name twice": (repeat_without_prefix, "same name"),
    "adapter's name": (rename("lora_A.weight", "lora_A.default.weight"), "an adapter's name in it"),
    "embedding": (rename("lora_A.weight", "lora_embedding_A"), "LoRA on an embedding"),
    "LoRA's bias": (rename("lora_B.weight", "lora_B.bias"), "a bias of LoRA's own"),
    "base's bias": (rename("q_proj.lora_A.weight", "q_proj.bias"), "a bias of the base"),
    "raw state": (rename("lora_A.weight", "modules_to_save.default.weight"), "PEFT's wrappers"),
    "beyond numbers": (enlarge(1e15), r"the adapter's values overflow\n.*q_proj|the adapter's values overflow\n.*lm"),
    "NaN": (break_value, "NaN or infinite values"),
}


@pytest.fixture(scope="module")
def on_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PEFT's adapter on the query projections and the head of a tied base."""
    directory = tmp_path_factory.mktemp("on-head")
    made_by_peft(language_models.make("llama-tied"), directory, target_modules=["q_proj", "lm_head"])
    return directory


@pytest.mark.parametrize("case", CHANGES)
def test_tensors_that_are_not_understood_are_named(case: str, on_head: Path, tmp_path: Path) -> None:
    shutil.copytree(on_head, tmp_path, dirs_exist_ok=True)
    change, expected = CHANGES[case]
    tensors = load_file(tmp_path / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    with pytest.raises(InputError, match=expected):
        read_by_us(language_models.make("llama-tied"), tmp_path)


def test_names_are_checked_before_a_tensor_is_read(on_head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorFile, "__getitem__", lambda *_: pytest.fail("a tensor was read"))
    with pytest.raises(InputError, match="does not have or target"):
        read_by_us(language_models.make("gpt-neox"), on_head)


def test_pickled_weights_are_refused_with_the_way_to_convert_them(on_head: Path, tmp_path: Path) -> None:
    shutil.copytree(on_head, tmp_path, dirs_exist_ok=True)
    torch.save(load_file(tmp_path / WEIGHTS), tmp_path / "adapter_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"never loaded\n.*adapter_model\.bin") as caught:
        read_adapter(tmp_path)
    program = caught.value.problems[0].remedy.partition('"')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    assert read_adapter(tmp_path).tensors.keys() == read_adapter(on_head).tensors.keys()


def test_more_names_than_any_model_has_are_not_even_read(on_head: Path, tmp_path: Path) -> None:
    shutil.copytree(on_head, tmp_path, dirs_exist_ok=True)
    length = 2**25 + 8
    (tmp_path / WEIGHTS).write_bytes(length.to_bytes(8, "little") + b" " * length)
    with pytest.raises(InputError, match="more tensors than any model"):
        read_adapter(tmp_path)


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "another kind": ({"peft_type": "LOHA", "target_modules": None, "r": None}, "kind of adapter is not supported"),
    "no kind": ({"peft_type": None}, "kind of adapter is not supported"),
    "unsupported before broken": ({"bias": "all", "target_modules": None}, "bias = 'all'"),
    "experts": ({"target_parameters": ["mlp.experts.gate_up_proj"], "target_modules": None}, "target_parameters"),
    "a moved base": (
        {"init_lora_weights": "pissa"},
        "remedy: let PEFT convert it .*path_initial_model_for_weight_conv",
    ),
    "no targets": ({"target_modules": None}, "target_modules is not what PEFT writes"),
    "no rank": ({"r": None}, "a whole number, at least 1"),
    "ranks": ({"rank_pattern": {"q_proj": 0, "k_proj": 0}}, "rank_pattern is not what PEFT writes"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_each_wrong_setting_is_one_sentence(case: str, tmp_path: Path) -> None:
    changes, expected = SETTINGS[case]
    path = tmp_path / CONFIG
    path.write_text(json.dumps({"peft_type": "LORA", "target_modules": ["q_proj"], **changes}))
    with pytest.raises(InputError, match=expected) as caught:
        read_config(path)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_whose_base_peft_has_moved_is_read_once_peft_has_converted_it(init: str, tmp_path: Path) -> None:
    """As the message about it says."""
    base = language_models.make("llama")
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=init)
    model = peft.get_peft_model(copy.deepcopy(base), config)
    config.init_lora_weights = True  # or PEFT would move the base again
    model.save_pretrained(tmp_path / "begin")
    disturb([own for own in model.parameters() if own.requires_grad])
    config.init_lora_weights = init
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match="moves the base"):
        read_adapter(tmp_path / "plain")
    trained = logits(model)
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "begin"))
    torch.testing.assert_close(read_by_us(base, tmp_path / "converted"), trained, atol=2e-5, rtol=1e-5)


def test_config_says_the_ranks_that_the_layers_have(tmp_path: Path) -> None:
    base = language_models.make("llama")
    model = copy.deepcopy(base)
    ranks = {
        f"model.layers.{layer}.self_attn.{name}_proj": rank
        for layer in (0, 1)
        for name, rank in zip("qk", (3, 5), strict=True)
    }
    ranks["model.layers.1.mlp.up_proj"] = 3
    layers = {
        name: build_layer(
            LoRALayer(),
            freeze(model.get_submodule(name)),
            (torch.randn(rank, 32), torch.randn(model.get_submodule(name).out_features, rank)),
            8 / rank,
            0.0,
        )
        for name, rank in ranks.items()
    }
    adapted = attach(model, layers, [], {})
    write_adapter(tmp_path, adapter_tensors(model, adapted, []))
    config = adapter_config(model, adapted, Method(name="lora", rank=64), [], NamedBase("base", None), "CAUSAL_LM")
    assert config["r"] == 3
    write_adapter_config(tmp_path, config, {})
    for found in (read_by_peft(base, tmp_path), read_by_us(base, tmp_path)):
        torch.testing.assert_close(found, logits(model), atol=2e-5, rtol=1e-5)


def deepseek() -> nn.Module:
    torch.manual_seed(0)
    return DeepseekV3ForCausalLM(
        DeepseekV3Config(
            vocab_size=60, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
            topk_group=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
            first_k_dense_replace=1, initializer_range=0.15,
        )
    )  # fmt: skip


@pytest.mark.parametrize("targets", ["all-linear", ("gate_proj", "up_proj", "down_proj"), ("down_proj",)], ids=str)
@pytest.mark.parametrize("scaling", list(Scaling))
def test_peft_reads_layers_with_the_names_of_experts(scaling: Scaling, targets: Any, tmp_path: Path) -> None:
    """It takes targets of such names for the stacked experts, unless they are named as parameters."""
    base = deepseek()
    method = Method(name="lora", rank=2, alpha=4.0, dropout=0.1, scaling=scaling, targets=targets)
    model, _ = trained(base, tmp_path, method, [])
    for found in (read_by_peft(base, tmp_path), read_by_us(base, tmp_path)):
        torch.testing.assert_close(found, logits(model), atol=2e-5, rtol=1e-5)


def test_what_peft_cannot_read_is_known_beforehand(tmp_path: Path) -> None:
    model, adapted = trained(deepseek(), tmp_path, Method(name="dora", rank=2), [])
    assert "drops DoRA" in unreadable(model, adapted.layers)
    layer = LoRALinear(freeze(nn.Linear(2, 2)), (torch.zeros(1, 2), torch.zeros(2, 1)), 1.0, 0.0)
    assert not unreadable(model, {"model.layers.0.self_attn.o_proj": layer})
    assert not unreadable(language_models.make("llama"), {"model.layers.0.mlp.down_proj": layer})
    mamba = MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, state_size=4))
    assert "refuses adapters on out_proj" in unreadable(mamba, {"backbone.layers.0.mixer.out_proj": layer})
    with pytest.raises(ValueError, match="incompatible with Mamba"):
        peft.get_peft_model(mamba, peft.LoraConfig(target_modules=["out_proj"]))


@pytest.mark.parametrize("installed", [True, False], ids=["PEFT", "its rules"])
def test_export_is_compared_with_what_peft_makes_of_it(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that lacks the other one of two tied modules trained together is another model for PEFT."""
    if not installed:
        monkeypatch.setattr("reflora_cli.export.peft_view.find_spec", lambda _: None)
    base = language_models.base("llama-tied")
    sections = {"task": {"name": "builtin/questions"}, "model": {"name": "builtin:tiny-llama"}}
    recipe = Recipe.model_validate({**sections, "train": {"steps": 1, "learning_rate": 1e-3}})
    model, _ = trained(base.model, tmp_path, Method(name="lora", rank=2), ["model.embed_tokens", "lm_head"])
    compute = Compute(torch.device("cpu"), torch.float32)
    view = PeftView(kind_of(find_task("builtin/questions")).make_objective(recipe, replace(base, model=model), compute))
    reader = view.verify(language_models.base("llama-tied"), tmp_path, "here")
    assert ("PEFT's rules" in reader) is not installed
    tensors = load_file(tmp_path / WEIGHTS)
    del tensors[f"{PREFIX}lm_head.weight"]
    save_file(tensors, tmp_path / WEIGHTS)
    config = json.loads((tmp_path / CONFIG).read_text()) | {"modules_to_save": ["model.embed_tokens"]}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    with pytest.raises(RefloraError, match="does not compute what its source does"):
        view.verify(language_models.base("llama-tied"), tmp_path, "here")


def test_an_adapter_beside_a_base_is_left_there(tmp_path: Path) -> None:
    source = find_source("builtin:tiny-llama", None)
    shutil.copytree(source.location, tmp_path, dirs_exist_ok=True)
    task = find_task("builtin/questions")
    plain: Base = kind_of(task).load_base(ModelSection(name=str(tmp_path)), None, torch.float32, seed=0)
    made_by_peft(plain.model, tmp_path / "adapter", target_modules=["q_proj"])
    for name in (CONFIG, WEIGHTS):
        shutil.copy(tmp_path / "adapter" / name, tmp_path)
    beside = kind_of(task).load_base(ModelSection(name=str(tmp_path)), None, torch.float32, seed=0)
    assert beside.model.state_dict().keys() == plain.model.state_dict().keys()
    assert torch.equal(logits(beside.model), logits(plain.model))
    assert load_tokenizer(find_source(str(tmp_path), None)).eos_token
