"""Write a report as LaTeX that compiles by itself, with tables of booktabs."""

from __future__ import annotations

from reflora_cli.reporting.document import Document, Figure, Section, Table, Text
from reflora_cli.reporting.markdown import FOLDER

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "±": r"$\pm$", "−": r"$-$", "×": r"$\times$", "–": "--",
    "…": r"\ldots{}",
}  # fmt: skip
"""Characters that LaTeX reads otherwise, or that its standard fonts lack."""
WIDEST = 72
"""Characters in a line of a table that fits on the page."""
LONGEST = 45
"""Rows of a table that fits on a page."""
LONG = 44
"""Characters from which on a cell has lines."""
PREAMBLE = r"""\documentclass[10pt]{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage[a4paper,margin=2cm]{geometry}
\usepackage{booktabs,graphicx}
\setlength{\parindent}{0pt}
\setlength{\parskip}{6pt}
"""


def latex(document: Document) -> str:
    """Return the whole report; figures are read from `figures/`."""
    head = [PREAMBLE + r"\begin{document}", rf"\section*{{{escaped(document.title)}}}", escaped(document.subtitle)]
    return "\n\n".join([*head, *map(section, document.sections), r"\end{document}"]) + "\n"


def section(own: Section) -> str:
    """Return one section."""
    parts = [rf"\subsection*{{{escaped(own.title)}}}", *map(escaped, own.paragraphs)]
    return "\n\n".join([*parts, *map(table, own.tables), *map(figure, own.figures)])


def table(own: Table) -> str:
    """Return a table with its caption; one that is wider than the page is made smaller, and one that is longer is left
    to the other formats.
    """
    if len(own.rows) > LONGEST:
        return escaped(f"{own.caption} The table has {len(own.rows)} rows, too many for a page: see the other formats.")
    widths = [
        max(len(row[place].text) for row in (*own.rows, tuple(map(Text, own.header))))
        for place in range(len(own.header))
    ]
    columns = "".join(
        "p{6cm}" if width > LONG else "l" if place < own.texts else "r" for place, width in enumerate(widths)
    )
    body = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(map(escaped, own.header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(cell, row)) + r" \\" for row in own.rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if sum(widths) + 2 * len(widths) > WIDEST:
        body = [r"\resizebox{\textwidth}{!}{%", *body, "}"]
    return "\n".join(
        [r"\begin{table}[!htbp]", r"\centering", rf"\caption{{{escaped(own.caption)}}}", *body, r"\end{table}"]
    )


def cell(own: Text) -> str:
    """Return one cell."""
    return rf"\textbf{{{escaped(own.text)}}}" if own.is_bold else escaped(own.text)


def figure(own: Figure) -> str:
    """Return a figure with its caption."""
    image = rf"\includegraphics[width=\textwidth,height=0.85\textheight,keepaspectratio]{{{FOLDER}/{own.name}.png}}"
    return "\n".join(
        [r"\begin{figure}[!htbp]", r"\centering", image, rf"\caption{{{escaped(own.caption)}}}", r"\end{figure}"]
    )


def escaped(text: str) -> str:
    """Return a text that LaTeX shows as it is, on one line; characters that its fonts lack become question marks."""
    line = " ".join(text.split())
    return "".join(SPECIAL.get(own, own if own.isascii() or own.encode("latin-1", "ignore") else "?") for own in line)
