"""What is public is documented: in the source by a docstring, in docs/ by being named there."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re

import pytest
from house import ROOT, SRC, files

import datadistill
from datadistill import errors
from datadistill.cli.commands import cli
from datadistill.evaluate import PROTOCOLS
from datadistill.methods import BUILT_IN

DOCS = ROOT / "docs"


def undocumented(path: str, tree: ast.Module) -> list[str]:
    """The module, and every public class and function at its top, that lacks a docstring."""
    found = [] if ast.get_docstring(tree) or not tree.body else [f"{path}: the module"]
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_") and not ast.get_docstring(node):
            found.append(f"{path}:{node.lineno}: {node.name}")
    return found


def test_everything_public_has_a_docstring():
    assert [name for path, tree in files().items() for name in undocumented(path, tree)] == []


def test_a_missing_docstring_is_noticed():
    assert undocumented("x.py", ast.parse("class A: ...")) == ["x.py: the module", "x.py:1: A"]
    assert undocumented("x.py", ast.parse('"""Doc."""\ndef _f(): ...\ndef f():\n    "Doc."')) == []


def test_public_methods_of_what_users_hold_have_docstrings():
    missing = []
    for thing in [getattr(datadistill, name) for name in datadistill.__all__]:
        for name, member in vars(thing).items() if isinstance(thing, type) else ():
            function = getattr(member, "fget", None) or getattr(member, "func", None) or getattr(member, "__func__", member)
            if not name.startswith("_") and callable(function) and not function.__doc__:
                missing.append(f"{thing.__name__}.{name}")
    assert missing == []


def test_the_front_names_stay_what_they_are_whatever_is_imported():
    for info in pkgutil.walk_packages([str(SRC)], "datadistill."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
    from datadistill import api

    assert datadistill.evaluate is api.evaluate and datadistill.distill is api.distill and datadistill.load is api.load
    assert set(datadistill.__all__) <= set(dir(datadistill))


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'destill'"):
        datadistill.destill  # noqa: B018


def named(page: str, word: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", (DOCS / page).read_text("utf-8")) is not None


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("python.md", [*datadistill.__all__, *(e.__name__ for e in vars(errors).values() if isinstance(e, type))]),
        ("methods.md", [m.name for m in BUILT_IN]),
        ("cli.md", [f"datadistill {name}" for name in cli.commands]),
        ("cli.md", sorted({option for c in cli.commands.values() for p in c.params for option in p.opts if option.startswith("--")})),
        ("verdict.md", ["PASS", "USE-CORESET", "FAIL", *PROTOCOLS, "distilled", "random", "coreset", "full", "full_equal_steps"]),
    ],
)  # fmt: skip
def test_every_public_name_is_in_the_documentation(page, words):
    assert [w for w in words if not named(page, w)] == []


def test_every_exit_code_is_in_the_documentation():
    codes = {str(e.exit_code) for e in vars(errors).values() if isinstance(e, type) and hasattr(e, "exit_code")} | {"0", "3", "130", "143"}
    for page in (ROOT / "README.md", DOCS / "cli.md"):
        rows = re.findall(r"^\| ([\d, ]+) \|", page.read_text("utf-8"), re.MULTILINE)
        assert codes == {code for row in rows for code in row.split(", ")}, page.name
