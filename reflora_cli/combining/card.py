"""Write the model card of a combination: what was combined, how, and what was lost."""

from __future__ import annotations

from collections.abc import Sequence

from reflora_cli import __version__
from reflora_cli.combining.request import CombineReport
from reflora_cli.combining.source import Source
from reflora_cli.export.public import last_part
from reflora_cli.methods.settings import Combining

SOURCES = {
    Combining.TIES: "Yadav et al. 2023, TIES, arXiv 2306.01708",
    Combining.DARE: "Yu et al. 2023, DARE, arXiv 2311.03099",
    Combining.SEARCH: "Huang et al. 2023, LoRAHub, arXiv 2307.13269",
}
SENTENCES = {
    Combining.CONCAT: "Their changes of the base's weights are summed; factors stand side by side, and nothing is lost",
    Combining.SVD: "The sum of their changes of the base's weights is truncated to its largest singular values",
    Combining.TIES: "Their changes of the base's weights are trimmed, signs elected, and entries that agree averaged",
    Combining.DARE: "Their changes of the base's weights, entries dropped at random and others rescaled, are summed",
    Combining.SEARCH: "The weights with which their changes are summed were searched on a few rows, without gradients",
}


def combined_card(sources: Sequence[Source], report: CombineReport) -> str:
    """Return the text of README.md."""
    how, base = report.how, public_base(sources[0])
    lines = ["---", front_matter(sources[0]), "---", "", f"# {len(sources)} adapters combined: {base}", ""]
    lines += [f"Combined by reflora {__version__} with `--how {how}`. {SENTENCES[how]}."]
    lines += [f"Source: {SOURCES[how]}."] if how in SOURCES else []
    lines += ["", "| adapter | weight |", "|---|---|"]
    lines += [f"| {last_part(own.named)} | {weight:g} |" for own, weight in zip(sources, report.weights, strict=True)]
    lines += ["", f"It changes {report.modules} weights, each by a matrix of rank {report.rank} at most."]
    if report.lost is not None:
        lines += [f"Truncation left out {report.lost:.2%} of it in the Frobenius norm."]
    lines += [f"Modules saved whole: {report.head}."] if report.head else []
    load = "`PeftModel.from_pretrained(base, DIRECTORY)` of PEFT, or `reflora eval RECIPE --adapter DIRECTORY`"
    return "\n".join([*lines, "", "## Load it", "", f"{load}.", ""])


def public_base(source: Source) -> str:
    """Return the base's name on the hub, or the last part of its path."""
    known = source.base
    return known.name if known.on_hub or known.path is None else last_part(known.path)


def front_matter(source: Source) -> str:
    """Return what the hub reads of the card."""
    from huggingface_hub import ModelCardData

    base = source.base.name if source.base.on_hub else None
    return str(ModelCardData(base_model=base, library_name="peft", tags=["lora", "reflora"]).to_yaml()).strip()
