"""Show one thing that has a name, other than a recipe. Each function returns what it shows, for `--json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from reflora_cli.cli.names import Sort

Record = dict[str, Any]
"""What is shown, as JSON has it."""


def show_method(name: str) -> Record:
    """Show one preset or choice: what it computes, its fields, what it costs, and what it goes with."""
    from reflora_cli.console.output import make_reporter
    from reflora_cli.methods.describe import described, listed
    from reflora_cli.methods.measured import measured
    from reflora_cli.recipe.keys import yaml_word

    own, costs, reporter = described(name), measured(), make_reporter()
    facts = {"source": own.source} if own.source else {}
    facts |= {key: str(value) for key, value in own.settings.items()}
    if cost := costs.costs.get(name):
        facts["cost"] = f"{cost.time:.2f} of LoRA's time per step, {cost.memory:.2f} of its memory: {costs.setting}"
    reporter.facts(own.name, {**facts, "goes with": listed(own)})
    for part in own.parts:
        fields = {f"{field.name} = {yaml_word(field.default)}": field.description for field in part.fields}
        needs = {"needs": "; ".join(part.needs)} if part.needs else {}
        source = {"source": part.source} if part.source else {}
        reporter.facts(f"{part.axis} {part.kind}", {"what": part.formula, **source, **fields, **needs})
    if own.refusals:
        reporter.facts("refused", own.refusals)
    return asdict(own)


def show_task(name: str) -> Record:
    """Show a task: what it reads, how it asks, how it is scored."""
    from reflora_cli.console.output import make_reporter
    from reflora_cli.tasks.describe import described_task
    from reflora_cli.tasks.registry import find_task

    own, reporter = described_task(find_task(name)), make_reporter()
    facts = {
        "asks for": own.asks,
        "columns": ", ".join(own.columns),
        "labels": ", ".join(own.labels) or "none: free text",
        "scores": f"{', '.join(own.metrics)}; the first one chooses the best adapter",
        "rows": own.source,
        "splits": f"trained on {own.trained_on}, scored on {', '.join(own.scored_on)}",
        "tasks": ", ".join(own.parts),
    }
    reporter.facts(f"task {own.name}", {key: value for key, value in facts.items() if value})
    if own.example is not None:
        prompt, answer = own.example
        reporter.text("a made-up row, with what is learned marked", [(prompt, False), (answer, True)])
    return asdict(own)


def show_key(name: str) -> Record:
    """Show what a key of recipes means; of a section, all of its keys."""
    from reflora_cli.console.output import make_reporter, show_table
    from reflora_cli.recipe.keys import recipe_keys, values_of

    (own,) = [key for key in recipe_keys() if key.path == name]
    below = [key for key in recipe_keys() if key.path.startswith(f"{name}.")]
    facts = {
        "meaning": own.meaning,
        "expected": own.expected if own.is_value else "its own keys",
        "default": own.default if own.is_value else "",
        "one of": ", ".join(values_of(name)),
        "of the kinds": ", ".join(own.kinds),
        "set it": f"{name}=VALUE" if own.is_value else "",
    }
    make_reporter().facts(f"recipe key {name}", {key: value for key, value in facts.items() if value})
    if below:
        show_table(
            f"keys of {name}", ["key", "default", "meaning"], [[key.path, key.default, key.meaning] for key in below]
        )
    return {**asdict(own), "keys": [asdict(key) for key in below]}


def show_format(name: str) -> Record:
    """Show what an export format is and needs."""
    from reflora_cli.cli.export import Format
    from reflora_cli.cli.formats import NOTES
    from reflora_cli.console.output import make_reporter

    note = NOTES[Format(name)]
    facts = {"what": note.what, "read by": note.reader, "needs": note.needs, "to get it": note.missing}
    command = {"command": f"reflora export RUN --format {name}"}
    make_reporter().facts(f"format {name}", {key: value for key, value in {**facts, **command}.items() if value})
    return {"name": name, **facts, **command}


def show_model(name: str) -> Record:
    """Show which recipes use a base, and whether it is at hand."""
    from reflora_cli.console.output import make_reporter
    from reflora_cli.model.known import known_models

    (own,) = [model for model in known_models() if model.name == name]
    where = own.where or "not on this machine: downloaded when it is needed"
    facts = {"place": where, "recipes": ", ".join(own.recipes) or "none"}
    make_reporter().facts(f"base {name}", {**facts, "use it": f"model.name={name}"})
    return asdict(own)


SHOWN: Mapping[Sort, Callable[[str], Record]] = {
    Sort.METHOD: show_method,
    Sort.TASK: show_task,
    Sort.KEY: show_key,
    Sort.FORMAT: show_format,
    Sort.MODEL: show_model,
}
"""The functions that show a thing, by its sort; recipes take more arguments."""
