"""What the house tests share: the source, parsed, and the names in it."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "datadistill"


def files(src: Path = SRC) -> dict[str, ast.Module]:
    """Path below `src` -> its syntax tree."""
    return {p.relative_to(src).as_posix(): ast.parse(p.read_text("utf-8"), str(p)) for p in sorted(src.rglob("*.py"))}


def dotted(node: ast.AST) -> str:
    """`np.random.rand` for that expression; "" for anything but names joined by dots; "?.seed" for an attribute of a call."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value) or '?'}.{node.attr}"
    return ""


def aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> what it stands for, for absolute imports: {"np": "numpy", "F": "torch.nn.functional"}."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for a in node.names:
                found[a.asname or a.name.split(".")[0]] = a.name if a.asname else a.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def full(node: ast.AST, names: dict[str, str]) -> str:
    """`dotted`, with the imported name spelled out: np.random.rand -> numpy.random.rand."""
    head, _, rest = dotted(node).partition(".")
    return ".".join(filter(None, (names.get(head, head), rest)))
