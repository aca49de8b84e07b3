"""The command line: one file per command, each parses, calls one function and prints.

Nothing heavy is imported here: torch and transformers come in inside the command functions, so that help, completion
and argument errors are immediate.
"""

from __future__ import annotations

import typer

from reflora_cli.cli.chat import chat_command
from reflora_cli.cli.combine import combine_command
from reflora_cli.cli.commands import Commands
from reflora_cli.cli.compare import compare_command
from reflora_cli.cli.doctor import doctor_command
from reflora_cli.cli.eval import eval_command
from reflora_cli.cli.export import export_command
from reflora_cli.cli.inspect import inspect_command
from reflora_cli.cli.list import list_command
from reflora_cli.cli.merge import merge_command
from reflora_cli.cli.plan import plan_command
from reflora_cli.cli.predict import predict_command
from reflora_cli.cli.push import push_command
from reflora_cli.cli.report import report_command
from reflora_cli.cli.show import show_command
from reflora_cli.cli.train import train_command

app = typer.Typer(
    name="reflora",
    help="Fine-tune transformers with low-rank adapters: LoRA, DoRA, RefLoRA and their relatives.",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
TRAINING, HANDING_ON = "Train a model, score it, ask it", "Hand on what was trained"
COMPARING, FINDING = "Plan runs, compare them, look into adapters", "Find what there is, and what is wrong"
"""The groups in which the commands are listed."""
app.command("train", rich_help_panel=TRAINING)(train_command)
app.command("eval", rich_help_panel=TRAINING)(eval_command)
app.command("predict", rich_help_panel=TRAINING)(predict_command)
app.command("chat", rich_help_panel=TRAINING)(chat_command)
app.command("merge", rich_help_panel=HANDING_ON)(merge_command)
app.command("export", rich_help_panel=HANDING_ON)(export_command)
app.command("combine", rich_help_panel=HANDING_ON)(combine_command)
app.command("push", rich_help_panel=HANDING_ON)(push_command)
app.command("plan", rich_help_panel=COMPARING)(plan_command)
app.command("compare", rich_help_panel=COMPARING)(compare_command)
app.command("report", rich_help_panel=COMPARING)(report_command)
app.command("inspect", rich_help_panel=COMPARING)(inspect_command)
app.command("list", rich_help_panel=FINDING)(list_command)
app.command("show", rich_help_panel=FINDING)(show_command)
app.command("doctor", rich_help_panel=FINDING)(doctor_command)


@app.callback(invoke_without_command=True)
def main(context: typer.Context, version: bool = typer.Option(False, "--version", help="Print the version.")) -> None:
    if version:
        from reflora_cli import __version__

        typer.echo(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
