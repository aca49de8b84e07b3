"""Wrong usage is one panel, status 2 and, with `--json`, one JSON object; nothing heavy is imported for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reflora_cli.cli import app
from tests.cli.conftest import Outcome, Reflora

HEAVY = ("torch", "transformers", "scipy", "sklearn", "matplotlib", "datasets")


def problem_of(outcome: Outcome) -> dict[str, str]:
    """The one problem of an error that was asked for as JSON; the panel says the same."""
    error = outcome.json["error"]
    assert (outcome.status, error["status"], error["title"]) == (2, 2, "Wrong input")
    (problem,) = error["problems"]
    assert set(problem) == {"what", "where", "found", "expected", "remedy"}
    assert problem["what"] in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err
    return dict(problem)


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("trian", "--json"), "did you mean 'train'?"),
        (("lst", "--json"), "did you mean 'list'?"),
        (("zzzz", "--json"), "see reflora --help"),
        (("train", "quickstart", "--outptu", "x", "--json"), "did you mean '--output'"),
        (("train", "quickstart", "--sede", "1", "--json"), "did you mean '--seed'"),
        (("export", "x", "--format", "gguff", "--json"), "did you mean 'gguf'"),
        (("merge", "--json"), "see reflora merge --help"),
        (("train", "quickstart", "method=dora", "--json"), "did you mean method.name=dora?"),
        (("train", "quickstart", "model=x", "method.rank=4", "--json"), "did you mean model.name=x?"),
        (("train", "quickstart", "task=glue/cola", "--json"), "did you mean task.name=glue/cola?"),
        (("train", "quickstart", "train=5", "--json"), "set its keys one by one, as train.epochs"),
        (("train", "quickstart", "--seed", "1", "train.seed=2", "--json"), "give one of the two"),
        (("train", "qickstart", "--json"), "did you mean 'quickstart'"),
        (("show", "pisa", "--json"), "did you mean 'pissa'"),
        (("train", "nowhere", "--json"), "`reflora list recipes` shows the "),
        (("eval", "nowhere", "--json"), "`reflora list recipes` shows the "),
        (("compare", "nowhere", "--json"), "`reflora list recipes` shows the "),
        (("train", "quickstart", "task.name=zzz", "--json"), "`reflora list tasks` shows the "),
        (("train", "quickstart", "train.zzzz=1", "--json"), "`reflora show train` shows the "),
        (("merge", "nowhere", "--json"), ""),
    ],
)
def test_the_nearest_names_are_suggested(arguments: tuple[str, ...], remedy: str, reflora: Reflora) -> None:
    assert problem_of(reflora(*arguments))["remedy"].startswith(remedy)


def test_a_section_in_a_file_is_explained_too(reflora: Reflora, tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("extends: quickstart\nmethod: dora\n", encoding="utf-8")
    problem = problem_of(reflora("train", path, "--json"))
    assert "did you mean method: {name: dora}?" in problem["remedy"]
    assert "line 2" in problem["where"]


def test_without_json_nothing_goes_to_stdout(reflora: Reflora) -> None:
    outcome = reflora("trian")
    assert (outcome.status, outcome.out) == (2, "")
    behind = reflora("predict", "nowhere", "--", "--json")
    assert (behind.status, behind.out) == (2, "")


def test_short_forms_are_the_recipe_s_keys(reflora: Reflora) -> None:
    outcome = reflora("train", "quickstart", "--seed", 7, "--lr", "2e-4", "--dry-run", "--json")
    assert outcome.status == 0, outcome.err
    section = outcome.json["recipe"]["train"]
    assert (section["seed"], section["learning_rate"]) == (7, 2e-4)


def test_a_plan_takes_the_short_forms_too(reflora: Reflora) -> None:
    problem = problem_of(reflora("plan", "quickstart", "--lr", 1e-3, "train.learning_rate=1e-4", "--json"))
    assert problem["what"] == "train.learning_rate is given twice"
    assert problem_of(reflora("plan", "quickstart", "--seed", "-1", "--json"))["where"] == "override train.seed=-1"


@pytest.mark.parametrize("command", ["train", "plan", "compare"])
def test_without_a_recipe_they_are_listed(command: str, reflora: Reflora) -> None:
    outcome = reflora(command, "--json")
    problem = problem_of(outcome)
    assert problem["what"] == f"reflora {command} needs a recipe"
    assert f"reflora {command} quickstart" in problem["remedy"]
    for name in ("quickstart", "glue/cola", "nlg/e2e"):
        assert name in outcome.err


@pytest.mark.parametrize("command", [[], *([own.name or ""] for own in app.registered_commands)])
def test_h_is_help_everywhere(command: list[str], reflora: Reflora) -> None:
    outcome = reflora(*command, "-h")
    assert outcome.status == 0
    assert "Usage:" in outcome.out
    assert outcome.out == reflora(*command, "--help").out


@pytest.mark.parametrize("command", [own.name or "" for own in app.registered_commands])
def test_every_help_has_an_example(command: str, reflora: Reflora) -> None:
    text = " ".join(reflora(command, "--help").out.split())
    assert f"Example: reflora {command}" in text


def test_the_commands_are_listed_in_groups(reflora: Reflora) -> None:
    text = reflora("--help").out
    places = [text.index(f"│ {own.name} ") for own in app.registered_commands]
    assert places == sorted(places)
    groups = list(dict.fromkeys(str(own.rich_help_panel) for own in app.registered_commands))
    assert len(groups) == 4
    assert [text.index(name) for name in groups] == sorted(text.index(name) for name in groups)


def test_no_command_shows_the_help(reflora: Reflora) -> None:
    outcome = reflora()
    assert outcome.status == 2
    assert "Usage:" in outcome.out


def in_a_process(call: str, place: Path, environment: dict[str, str]) -> str:
    """What a call of the command line prints, with the heavy libraries that it imported behind it."""
    code = f"""
import sys
from reflora_cli.cli import app
try:
    {call}
finally:
    print("IMPORTED", [name for name in {HEAVY!r} if name in sys.modules])
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**os.environ, "PYTHONPATH": root, **environment},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


def in_a_shell(environment: dict[str, str], place: Path) -> str:
    """What completion prints."""
    return in_a_process('app(prog_name="reflora")', place, environment)


def completed(line: str, place: Path) -> list[str]:
    """What bash offers behind a line; it takes `=` for a word."""
    words = line.replace("=", " = ").split(" ")
    words = [word for word in words if word] + ([""] if line.endswith(" ") else [])
    shell = {"_REFLORA_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    *offers, imported = in_a_shell(shell, place).splitlines()
    assert imported == "IMPORTED []"
    return offers


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("reflora train glue/co", ["glue/cola"]),
        ("reflora train quickstart method.na", ["method.name=", "method.name=reflora"]),
        ("reflora train quickstart method.name=dor", ["dora"]),
        (
            "reflora train quickstart train.optimizer=",
            ["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", "sgd"],
        ),
        ("reflora show train.lea", ["train.learning_rate"]),
        ("reflora eval runs/f", ["runs/first", "runs/first/"]),
        ("reflora merge ", ["runs/first"]),
        ("reflora report ", ["runs/first"]),
        ("reflora inspect runs/first ", ["runs/first"]),
        ("reflora combine runs/first ", ["runs/first"]),
        ("reflora plan glue/co", ["glue/cola"]),
        ("reflora compare plans/q", ["plans/quickstart"]),
        ("reflora compare glue/co", ["glue/cola"]),
        ("reflora compare quickstart method.name=lora,dor", ["lora,dora"]),
        ("reflora export runs/first --format gg", ["gguf", "gguf-adapter"]),
    ],
)
def test_names_are_completed_without_heavy_libraries(line: str, expected: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "recipe.yaml").write_text("", encoding="utf-8")
    (tmp_path / "runs" / "other").mkdir()
    assert completed(line, tmp_path) == expected


def test_zsh_gets_whole_words(tmp_path: Path) -> None:
    shell = {
        "_REFLORA_COMPLETE": "complete_zsh",
        "_TYPER_COMPLETE_ARGS": "reflora train quickstart method.name=dor",
    }
    assert "method.name=dora" in in_a_shell(shell, tmp_path)
    shell["_TYPER_COMPLETE_ARGS"] = "reflora compare quickstart method.name=lora,dor"
    assert "method.name=lora,dora" in in_a_shell(shell, tmp_path)


@pytest.mark.parametrize("arguments", [["--help"], ["trian"], ["train"], ["list", "recipes"], ["show", "train"]])
def test_what_only_tells_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    told = in_a_process(f"app({arguments!r})", tmp_path, {})
    assert told.splitlines()[-1] == "IMPORTED []"


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("train", ("quickstart",)),
        ("plan", ("quickstart",)),
        ("compare", ("quickstart",)),
        ("eval", ("quickstart",)),
        ("predict", ("runs/x", "a text")),
        ("merge", ("runs/x",)),
        ("export", ("runs/x", "--format", "peft")),
        ("combine", ("runs/x", "runs/y")),
        ("inspect", ("runs/x",)),
        ("report", ("runs/x",)),
        ("show", ("quickstart",)),
    ],
)
def test_the_place_of_results_is_not_taken_for_an_option(
    command: str, more: tuple[str, ...], reflora: Reflora, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A place that was forgotten would swallow the option behind it."""
    monkeypatch.chdir(tmp_path)
    option = "--copy" if command == "show" else "--output"
    problem = problem_of(reflora(command, *more, option, "--json"))
    assert problem == {
        "what": f"{option} needs a path",
        "where": f"reflora {command}",
        "found": "--json",
        "expected": "a path that does not begin with -",
        "remedy": f"write the path behind {option}; ./--json is one",
    }
    assert not list(tmp_path.iterdir())


def test_completion_goes_on_behind_a_place_that_was_forgotten(tmp_path: Path) -> None:
    assert completed("reflora train quickstart --output --json --dry", tmp_path) == ["--dry-run"]


def test_names_of_recipes_are_completed_without_the_schema(tmp_path: Path) -> None:
    """Whose import takes longer than everything else behind TAB."""
    code = """
import sys
from reflora_cli.cli.completion import complete_plan, complete_recipe
assert complete_recipe("glue/cola") == [("glue/cola", "a bundled recipe")]
assert complete_plan("plans/quick") == [("plans/quickstart", "a bundled plan")]
print([name for name in ("pydantic", "yaml") if name in sys.modules])
"""
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.stdout == "[]\n"
