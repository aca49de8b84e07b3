"""python -m reflora_cli"""

from reflora_cli.cli import app

app(prog_name="reflora")
