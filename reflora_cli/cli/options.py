"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reflora_cli.cli.completion import complete_model, complete_override, complete_recipe, complete_run
from reflora_cli.ground.errors import InputError, Problem

RecipeName = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or a bundled recipe such as glue/cola [default: list the bundled ones].",
        show_default=False,
        autocompletion=complete_recipe,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Override recipe fields, for example method.rank=16.",
        show_default=False,
        autocompletion=complete_override,
    ),
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Short for train.seed=N.")]
LearningRate = Annotated[float | None, typer.Option("--lr", metavar="X", help="Short for train.learning_rate=X.")]
Places = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="New place of a moved base or data: model.name=PATH, task.data=PATH.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Run = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="A run directory written by `reflora train`.",
        show_default=False,
        autocompletion=complete_run,
    ),
]
AnyModel = Annotated[
    str,
    typer.Argument(
        metavar="RUN|MODEL_DIR|RECIPE",
        help="A run directory, a merged model's directory, or a recipe with --adapter.",
        show_default=False,
        autocompletion=complete_model,
    ),
]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="An adapter directory, reflora's or PEFT's.")]
BasePlace = Annotated[
    str | None, typer.Option("--base", metavar="NAME", help="The base model, if it has moved [default: as recorded].")
]
TaskName = Annotated[
    str | None,
    typer.Option("--task", metavar="NAME", help="Use the prompt or columns of this task [default: the recipe's]."),
]
NewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", min=1, help="Language models: most tokens of an answer [default: the recipe's]."),
]


def refuse_option_as_path(context: typer.Context, option: typer.CallbackParam, value: Path | None) -> Path | None:
    """Return the path that an option is given. Raises InputError for one that begins with `-`: it was meant to be
    another option, and the path was forgotten.
    """
    if value is not None and str(value).startswith("-") and not context.resilient_parsing:
        name, where = option.opts[0], context.command_path
        expected, remedy = "a path that does not begin with -", f"write the path behind {name}; ./{value} is one"
        raise InputError(Problem(f"{name} needs a path", where, str(value), expected, remedy))
    return value


def output_option(help: str) -> Any:
    """Return the option for the place of a command's results."""
    return typer.Option("--output", "-o", help=help, callback=refuse_option_as_path)


def with_short_forms(overrides: list[str] | None, seed: int | None, rate: float | None) -> list[str]:
    """Return overrides with what `--seed` and `--lr` say. Raises InputError where an override says it too."""
    given = list(overrides or ())
    for option, key, value in (("--seed", "train.seed", seed), ("--lr", "train.learning_rate", rate)):
        if value is None:
            continue
        if twice := next((own for own in given if own.partition("=")[0] == key), None):
            what = f"{key} is given twice"
            raise InputError(Problem(what, f"{option} and override {twice}", remedy="give one of the two"))
        given.append(f"{key}={value!r}")
    return given
