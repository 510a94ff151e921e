"""Writes the generated parts of the documentation: docs/methods.md from the method classes, docs/cli.md from the commands.

    python tools/reference.py            write them, and docs/board.svg and docs/steps.svg from what was measured
    python tools/reference.py --check    say which are stale, and exit 1

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; the rest of a page is written by hand.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import get_type_hints

sys.path.insert(0, str(Path(__file__).parent))
import board

DOCS = Path(__file__).parents[1] / "docs"
PART = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n")[0]


def cell(text: object) -> str:
    """Text for a cell of a Markdown table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def table(head: list[str], rows: list[list[object]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(cell, row)) + " |"


# -- methods ---------------------------------------------------------------------------------------------------------


def all_methods() -> list[type]:
    from datadistill.methods import BUILT_IN

    return list(BUILT_IN)


def field_comments(cls: type) -> dict[str, str]:
    """Field -> the comment on its line, over the class and its bases."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__[:-1]):
        source = inspect.getsource(base) if base.__module__.startswith("datadistill") else "class _: ..."
        lines = source.splitlines()
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                _, mark, comment = lines[node.lineno - 1].partition("  # ")
                found[node.target.id] = comment if mark else found.get(node.target.id, "")
    return found


def kind(annotation: object) -> str:
    from datadistill.methods.base import options_of

    return " or ".join("none" if o is type(None) else f"`{o}`" if isinstance(o, str) else o.__name__ for o in options_of(annotation))


def methods_overview() -> Iterator[str]:
    rows = [[f"[`{m.name}`](#{m.name})", m.family, ", ".join(m.takes()), m.stores, m.when, m.paper] for m in all_methods()]
    yield from table(["method", "family", "takes", "stores", "when to use it", "paper"], rows)


def measured(what: Callable[[], tuple[list[str], list[list[object]]]]) -> Callable[[], Iterator[str]]:
    return lambda: table(*what())


def quick(method: type, name: str) -> str:
    return "; ".join(f"{of}`{values[name]}`" for of, values in (("", method.quick), ("for tables ", method.quick_table)) if name in values)


def methods_each() -> Iterator[str]:
    for m in all_methods():
        yield from ("", f"### {m.name}", "", first_line(m), "")
        notes = inspect.getdoc(sys.modules[m.__module__]) or ""
        yield from ("```text", notes, "```", "")
        comments, hints = field_comments(m), get_type_hints(m)
        rows = [[f"`{f.name}`", f"`{f.default}`", quick(m, f.name), kind(hints[f.name]), comments.get(f.name, "")] for f in fields(m)]
        if not m.quick:
            rows = [[name, default, *rest] for name, default, _, *rest in rows]
        head = ["hyper-parameter", "default", *(["quick"] if m.quick else []), "type", ""]
        yield from table(head, rows) if rows else ["No hyper-parameters."]
    yield ""


# -- the command line ------------------------------------------------------------------------------------------------


def commands() -> dict[str, object]:
    from datadistill.cli.commands import cli

    return dict(sorted(cli.commands.items()))


def commands_each() -> Iterator[str]:
    import click

    for name, command in commands().items():
        arguments = " ".join(p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument))
        yield from ("", f"### datadistill {name}", "", f"`datadistill {name} {arguments}`".replace(" `", "`"), "", cell(command.help.split("\f")[0]), "")
        rows = []
        for p in command.params:
            if isinstance(p, click.Option) and not p.hidden:
                flag = ", ".join(f"`{o}`" for o in [*sorted(p.opts, key=len, reverse=True), *p.secondary_opts])
                default = "" if p.is_flag or p.default in (None, ()) or not isinstance(p.default, (int, float, str)) else f"`{p.default}`"
                choices = " One of " + ", ".join(p.type.choices) + "." if isinstance(p.type, click.Choice) else ""
                rows.append([flag, default, f"`{p.envvar}`" if p.envvar else "", (p.help or "").replace("  [default: 10]", " 10 if no budget is given.") + choices])
        yield from table(["flag", "default", "environment", ""], rows) if rows else ["It takes no flags."]
    yield ""


PARTS = {"measured": measured(board.rows), "small": measured(partial(board.rows, "small")), "tables": measured(partial(board.rows, "tabular")), "forms": measured(board.forms), "decoupled": measured(board.decoupled), "crossed": measured(board.crossed), "paper_scale": measured(board.at_paper_scale), "steps": measured(board.by_steps), "steady": measured(board.steady), "methods_overview": methods_overview, "methods_each": methods_each, "commands_each": commands_each}


def fresh(text: str) -> str:
    """The page with its generated parts as they should be."""
    return PART.sub(lambda m: m[1] + "\n".join(PARTS[m[2]]()) + "\n" + m[3], text)


def main(arguments: list[str]) -> int:
    wanted = {page: fresh(page.read_text("utf-8")) for page in sorted(DOCS.glob("*.md"))} | {DOCS / "board.svg": board.picture(), DOCS / "steps.svg": board.curves()}
    stale = {path: text for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text}
    if "--check" not in arguments:
        for path, text in stale.items():
            path.write_text(text, "utf-8")
    print(f"{'stale' if '--check' in arguments else 'written'}: {', '.join(path.name for path in stale) or 'nothing'}")
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
