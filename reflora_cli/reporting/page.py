"""Write a report as one HTML page that needs nothing else: figures are inlined, and no request is made."""

from __future__ import annotations

import base64
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reflora_cli.reporting.document import Document, Figure

TEMPLATES = Path(__file__).with_name("templates")


def page(document: Document) -> str:
    """Return the page. Every text is escaped."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(document=document, inlined=inlined)


def inlined(figure: Figure) -> str:
    """Return a figure as a data address. As an image, its SVG shares no names with the page or with other figures."""
    return f"data:image/svg+xml;base64,{base64.b64encode(figure.svg).decode()}"
