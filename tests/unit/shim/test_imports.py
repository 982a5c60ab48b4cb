"""The shim's sources import each other, and modules that are compiled into the interpreter."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).resolve().parents[3] / "shim").glob("*.py"))
COMPILED_IN = {"sys", "posix", "time", "_socket"}  # those of shim/build/main.c's table that the shim needs


def imported(tree: ast.AST) -> Iterator[str]:
    """What running the module imports; the build takes out what is under TYPE_CHECKING, and the future."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
        yield from imported(node)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_imported_that_would_have_to_be_found(path: Path) -> None:
    allowed = COMPILED_IN | {"__future__", "shim"} | {f"shim.{source.stem}" for source in SOURCES}
    assert set(imported(ast.parse(path.read_text()))) <= allowed


def test_the_walk_sees_imports() -> None:
    tree = ast.parse("import a.b\ndef f():\n    from c import d\nif TYPE_CHECKING:\n    import e\n")
    assert list(imported(tree)) == ["a.b", "c"]
    assert {path.name for path in SOURCES} >= {"main.py", "http2.py"}
