"""What was trained is what is served: a model of conversations asked by transformers, llama.cpp, Ollama and us."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
from typer.testing import CliRunner

from reflora_cli.cli import app
from tests.cli.conftest import Outcome, Reflora
from tests.talking import FAMILIES, family_tokenizer, ollama_prompt

ASKED = {
    "What is a cup?": "A thing to drink from.",
    "What is a hat?": "A thing to wear.",
    "And a box?": "A thing to put things in.",
    "Who are you?": "I am small.",
}
SYSTEM = "Answer in short."
CONVERSATION = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "What is a cup?"},
    {"role": "assistant", "content": "A thing to drink from."},
    {"role": "user", "content": "And a box?"},
]
END = "<|im_end|>"


def learned_base(directory: Path) -> None:
    """A tiny Qwen2 that has learned to answer by ChatML, in a directory with its tokenizer."""
    texts = [text for pair in ASKED.items() for text in pair]
    tokenizer = family_tokenizer(FAMILIES["chatml"], [*texts, SYSTEM, "Question: Answer: used for"] * 3)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    rows = [told(question, answer) for question, answer in ASKED.items()]
    rows += [[{"role": "system", "content": SYSTEM}, *row] for row in rows]
    rows.append([*CONVERSATION, {"role": "assistant", "content": ASKED["And a box?"]}])
    batch = tokenizer([tokenizer.apply_chat_template(row, tokenize=False) for row in rows], padding=True,
                      return_tensors="pt")  # fmt: skip
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        loss = model(**batch, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def told(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "base"
    learned_base(place)
    return place


def trained_on(task: dict[str, Any], base: Path, reflora: Reflora, place: Path) -> Path:
    """A run on the base that has changed little of it."""
    recipe = {
        "model": {"name": str(base), "dtype": "float32"},
        "method": {"name": "lora", "rank": 4, "alpha": 4.0},
        "task": {**task, "max_length": 300},
        "train": {"steps": 2, "batch_size": 4, "learning_rate": 1e-4},
        "eval": {"protocol": "choices"},
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    outcome = reflora("train", place / "recipe.yaml", "--output", place / "run")
    assert outcome.status == 0, outcome.err
    return place / "run"


@pytest.fixture(scope="module")
def run(base: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned conversations by the base's chat template."""
    place = tmp_path_factory.mktemp("talking")
    rows = [json.dumps({"messages": told(question, answer)}) for question, answer in ASKED.items()]
    for split in ("train", "validation"):
        (place / f"{split}.jsonl").write_text("\n".join(rows))
    return trained_on({"kind": "chat", "data": str(place)}, base, reflora, place)


@pytest.fixture(scope="module")
def prompted(base: Path, reflora: Reflora, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained on the prompt of its task, though the base has a chat template."""
    task = {"name": "builtin/questions", "max_train_rows": 8, "max_eval_rows": 4}
    return trained_on(task, base, reflora, tmp_path_factory.mktemp("prompted"))


def chat(text: str, *arguments: object) -> Outcome:
    result = CliRunner().invoke(app, ["chat", *map(str, arguments), "--max-new-tokens", "40"], input=text.encode())
    return Outcome(result.exit_code, result.stdout, result.stderr)


def written(directory: Path, messages: list[dict[str, str]]) -> list[int]:
    """The tokens that transformers writes with a directory's own settings, up to the one that ends them."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    asked: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    ids: list[int] = model.generate(**asked, max_new_tokens=40, do_sample=False)[0, asked["input_ids"].shape[1] :]
    return [int(token) for token in ids]


def test_a_merged_model_carries_the_trained_template(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    assert reflora("merge", run, "--output", tmp_path / "merged").status == 0
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == FAMILIES["chatml"].template
    end = tokenizer.convert_tokens_to_ids(END)
    ends = json.loads((tmp_path / "merged" / "generation_config.json").read_text())["eos_token_id"]
    assert set(ends) == {tokenizer.eos_token_id, end}
    ids = written(tmp_path / "merged", CONVERSATION)
    assert ids[-1] == end, "the model must have learned to end its turn"
    answer = tokenizer.decode(ids, skip_special_tokens=True)
    assert answer == ASKED["And a box?"]
    card = (tmp_path / "merged" / "README.md").read_text()
    assert f"<|im_start|>user\nWhat is a cup?{END}\n<|im_start|>assistant\n" in card
    assert f"An answer ends with `{END}`" in card
    for place in (run, tmp_path / "merged"):
        outcome = chat(f"/system {SYSTEM}\nWhat is a cup?\nAnd a box?\n", place)
        assert outcome.out.splitlines() == [ASKED["What is a cup?"], ASKED["And a box?"]], outcome.err
        assert "put into the tokenizer's chat template; earlier messages are read too" in outcome.err


def test_a_run_on_its_own_prompt_is_not_asked_by_the_base_s_template(
    prompted: Path, reflora: Reflora, tmp_path: Path
) -> None:
    """Nor is what is merged: its tokenizer writes the prompt of training, so that both give the same answer."""
    assert reflora("merge", prompted, "--output", tmp_path / "merged").status == 0
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    question = [{"role": "user", "content": "Who are you?"}]
    ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=False)
    assert ids == tokenizer("Question: Who are you? Answer:")["input_ids"]
    own, other = (chat("Who are you?\n", place) for place in (prompted, tmp_path / "merged"))
    assert (
        "training did not use the tokenizer's chat template: every message is read alone, in the prompt of" in own.err
    )
    expected = tokenizer.decode(written(tmp_path / "merged", question), skip_special_tokens=True).strip()
    assert own.out.strip() == other.out.strip() == expected != ""
    card = (tmp_path / "merged" / "README.md").read_text()
    assert "Question: {instruction} Answer:" in card
    assert "<|im_start|>" not in card
    refused = chat("/system Be brief.\n", tmp_path / "merged")
    assert refused.status == 2
    assert "no place for a system message" in refused.err


def test_an_adapter_lies_beside_its_tokenizer(run: Path, prompted: Path, base: Path, tmp_path: Path) -> None:
    """PEFT's users find the template there."""
    for place, template in ((run, FAMILIES["chatml"].template), (prompted, "'Question: ' + message['content']")):
        tokenizer: Any = AutoTokenizer.from_pretrained(place / "adapter")
        assert template in tokenizer.chat_template
        assert tokenizer.get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()


def test_a_run_without_a_tokenizer_beside_its_adapter_is_used_as_before(
    run: Path, reflora: Reflora, tmp_path: Path
) -> None:
    older = shutil.copytree(run, tmp_path / "run")
    removed = [path for path in (older / "adapter").iterdir() if not path.name.startswith(("adapter", "reflora"))]
    assert {"tokenizer.json", "chat_template.jinja"} <= {path.name for path in removed}
    for path in removed:
        path.unlink()
    scores = [reflora("eval", place, "--json").json["tasks"] for place in (run, older)]
    assert scores[0] == scores[1]
    assert reflora("export", older, "--format", "peft", "--output", tmp_path / "peft").status == 0
    assert AutoTokenizer.from_pretrained(tmp_path / "peft").chat_template == FAMILIES["chatml"].template


def test_rows_are_asked_as_in_training(run: Path, prompted: Path, reflora: Reflora, tmp_path: Path) -> None:
    """By a run, by what is merged of it, and with the same answers as in conversations."""
    for place in (run, prompted):
        merged = tmp_path / place.parent.name
        assert reflora("merge", place, "--output", merged).status == 0
        answers = []
        for source in (place, merged):
            outcome = reflora("predict", source, "Who are you?", "--max-new-tokens", 40, "--json")
            assert outcome.status == 0, outcome.err
            answers.append(outcome.json["answer"])
        assert answers[0] == answers[1] != ""
        assert answers[0].strip() == chat("Who are you?\n", place).out.strip()
        assert (answers[0] == ASKED["Who are you?"]) == (place == run)
        raw = reflora("predict", merged, "Who are you?", "--raw", "--max-new-tokens", 40, "--json")
        assert raw.json["answer"] != answers[0]


def test_conversations_of_a_file_are_gone_on_with(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    """Those that end with a question, and those of training, whose last answer is asked for again."""
    question, answer = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "no one"}
    further = [question, {"role": "assistant", "content": ASKED["Who are you?"]}, {"role": "user", "content": "Sure?"}]
    rows = [{"messages": [question]}, {"messages": [question, answer]}, {"messages": further}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    outcome = reflora("predict", run, path, "--max-new-tokens", 40, "--output", tmp_path / "answers.jsonl")
    assert outcome.status == 0, outcome.err
    found = [json.loads(line)["answer"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert found[0] == found[1] == ASKED["Who are you?"]
    spoken = chat("Who are you?\nSure?\n", run).out.strip().splitlines()
    assert found[2].strip() == spoken[-1].strip()
    path.write_text(json.dumps({"messages": [answer]}), encoding="utf-8")
    outcome = reflora("predict", run, path)
    assert (outcome.status, "there is no message to answer" in outcome.err) == (2, True)


def test_a_gguf_file_carries_the_trained_template(run: Path, base: Path, reflora: Reflora, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="gguf is not installed")
    outcome = reflora("export", run, "--format", "gguf", "--gguf-type", "f32", "--output", tmp_path / "out")
    assert outcome.status == 0, outcome.err
    fields = gguf.GGUFReader(tmp_path / "out" / "model.gguf").fields
    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    assert fields["tokenizer.chat_template"].contents() == FAMILIES["chatml"].template
    assert fields["tokenizer.ggml.eot_token_id"].contents() == tokenizer.convert_tokens_to_ids(END)
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id
    file = (tmp_path / "out" / "Modelfile").read_text()
    template = file.partition('TEMPLATE """')[2].partition('"""')[0]
    expected = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, tokenize=False)
    assert ollama_prompt(template, CONVERSATION) == expected
    assert f'PARAMETER stop "{END}"' in file
    assert "SYSTEM" not in file
    assert f"<|im_start|>user\nWhat is a cup?{END}" in (tmp_path / "out" / "README.md").read_text()


def test_llama_cpp_reads_and_writes_the_same_tokens(run: Path, reflora: Reflora, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    for kind in ("safetensors", "gguf"):
        arguments = ("--gguf-type", "f32") if kind == "gguf" else ()
        assert reflora("export", run, "--format", kind, *arguments, "--output", tmp_path / kind).status == 0
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "safetensors")
    expected = tokenizer.apply_chat_template(CONVERSATION, add_generation_prompt=True, return_dict=False)
    llama = llama_cpp.Llama(str(tmp_path / "gguf" / "model.gguf"), n_ctx=512, verbose=False, logits_all=True)
    template = (tmp_path / "gguf" / "Modelfile").read_text().partition('TEMPLATE """')[2].partition('"""')[0]
    read = llama.tokenize(ollama_prompt(template, CONVERSATION).encode(), add_bos=True, special=True)
    assert read == expected, "Ollama puts the begin token where the file says so"
    new = written(tmp_path / "safetensors", CONVERSATION)
    found = llama.create_chat_completion(CONVERSATION, temperature=0.0, repeat_penalty=1.0, max_tokens=40)
    assert found["usage"]["prompt_tokens"] == len(expected)
    assert found["choices"][0]["finish_reason"] == "stop"
    assert list(llama.input_ids[: len(expected)]) == expected
    assert found["choices"][0]["message"]["content"] == tokenizer.decode(new, skip_special_tokens=True)
    assert found["usage"]["completion_tokens"] in (len(new), len(new) - 1)
    outcome = chat(f"/system {SYSTEM}\nWhat is a cup?\nAnd a box?\n", run)
    assert outcome.out.splitlines()[1] == found["choices"][0]["message"]["content"]
