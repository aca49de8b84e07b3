"""CONTRIBUTING.md is true: its tree is the tree, its files and names exist, its commands are in the Makefile."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE, _, TREE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## What is where")
PLACEHOLDER = re.compile("NAME|DIRECTORY")


def test_tree_names_every_module_and_nothing_else() -> None:
    tree = TREE.split("```")[1].strip("\n")
    named: set[str] = set()
    stack: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        stack = [*stack[:depth], name]
        named.add("".join(stack))
    package = {str(path.relative_to(ROOT)) for path in (ROOT / "reflora_cli").rglob("*.py")}
    assert {path for path in package if not path.endswith("__init__.py")} <= named
    assert all((ROOT / path).exists() for path in named)


def located(path: str) -> Path:
    """Where a path of the guide leads: into the package unless it begins with a folder or file beside it."""
    beside = ("tests/", "recipes/", "reflora_cli/", "docs/", "pyproject.toml", ".constraints.txt")
    return ROOT / path if path.startswith(beside) else ROOT / "reflora_cli" / path


def test_every_file_named_is_there() -> None:
    paths = set(re.findall(r"`([\w./]+/[\w./]*|[\w.]+\.(?:md|py|toml|txt))`", GUIDE))
    assert len(paths) > 30
    assert [path for path in paths if not PLACEHOLDER.search(path) and not located(path).exists()] == []


@pytest.mark.parametrize("paragraph", re.findall(r"(?:[^\n]+\n)+", GUIDE), ids=lambda text: text[:30].strip())
def test_every_name_is_in_a_file_of_its_paragraph(paragraph: str) -> None:
    files = [path for path in re.findall(r"`([\w./]+\.py)`", paragraph) if not PLACEHOLDER.search(path)]
    known = {name for path in files for name in names(ast.parse(located(path).read_text(encoding="utf-8")))}
    asked = set(re.findall(r"`([A-Za-z_]\w*)`", paragraph)) if files else set()
    assert asked - known == set()


def names(tree: ast.Module) -> set[str]:
    """What a file defines, imports or calls."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.alias)}
    return found | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_make_commands_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    assert {*re.findall(r"`make (\w+)`", GUIDE)} <= targets
