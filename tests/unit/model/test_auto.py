"""transformers' Auto classes are asked for in one room."""

from __future__ import annotations

import ast
from pathlib import Path

import reflora_cli

PACKAGE = Path(reflora_cli.__file__).parent


def auto_names(tree: ast.AST) -> set[str]:
    """The Auto classes that are imported or taken from a module."""
    imported = {own.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for own in node.names}
    taken = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return {name for name in imported | taken if name.startswith("Auto") and name != "AutoName"}


def test_auto_classes_are_used_in_their_room_only() -> None:
    found = {path: auto_names(ast.parse(path.read_text(encoding="utf-8"))) for path in PACKAGE.rglob("*.py")}
    rooms = {path.relative_to(PACKAGE).parts[0] for path, names in found.items() if names}
    assert rooms == {"model"}
