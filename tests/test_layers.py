"""Imports only go down, and no room outside modalities, nets and data knows which kind of data it works on."""

from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path

import pytest
from house import SRC, aliases, dotted, files

FLOORS = [  # ground floor first; rooms of one floor do not import each other
    "errors rng rates text match allocator precision replay",
    "spec extras store dist progress memory job",
    "engine",
    "run nets labels modalities",
    "data",
    "synthetic training",
    "methods evaluate",
    "recipes audit",
    "bench plan",
    "report",
    "gallery",
    "api",
    "estimator fresh testing",
    "cli",
]
FLOOR = {room: k for k, rooms in enumerate(FLOORS) for room in rooms.split()}
FREE = {"__init__", "__main__"}  # the front doors: they show names of every floor


def room_of(path: str) -> str:
    return path.split("/")[0].removesuffix(".py")


def arrows(path: str, tree: ast.AST, rooms: set[str]) -> list[tuple[str, int]]:
    """(room, line) for every import of a room of ours, wherever it stands: in a function or under TYPE_CHECKING too."""
    package = ["datadistill", *path.split("/")[:-1]]
    found = []
    for node in ast.walk(tree):
        targets: list[str] = []
        if isinstance(node, ast.Import):
            targets = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            targets = [f"{module}.{a.name}" for a in node.names]
        elif isinstance(node, ast.Call) and "import" in dotted(node.func):  # import_module("datadistill.cli")
            targets = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        for target in targets:
            parts = target.split(".")
            if parts[0] == "datadistill" and len(parts) > 1 and parts[1] in rooms:
                found.append((parts[1], node.lineno))
    return found


def wrong_arrows(src: Path) -> list[str]:
    trees = files(src)
    rooms = {room_of(p) for p in trees} - FREE
    wrong = [f"{room}: has no floor; give it one in tests/test_layers.py" for room in sorted(rooms - set(FLOOR))]
    for path, tree in trees.items():
        here = room_of(path)
        if here in FREE or here not in FLOOR:
            continue
        for there, line in arrows(path, tree, rooms):
            if there != here and FLOOR.get(there, -1) >= FLOOR[here]:
                way = "sideways" if FLOOR[there] == FLOOR[here] else "up"
                wrong.append(f"{path}:{line}: {here} imports {there}, which is {way}")
    return wrong


def knows_modality(src: Path) -> list[str]:
    """Names of a modality, as a string or as its class, outside the three rooms that may know them."""
    from datadistill.modalities import ALL

    kinds, classes = set(ALL), {m.__name__ for m in ALL.values()}
    found = []
    for path, tree in files(src).items():
        if room_of(path) in ("modalities", "nets", "data"):
            continue
        foreign = {name for name, target in aliases(tree).items() if not target.startswith("datadistill")}
        for node in ast.walk(tree):
            word = ""
            if isinstance(node, ast.Constant) and node.value in kinds:
                word = repr(node.value)
            elif isinstance(node, ast.Name) and node.id in classes - foreign:
                word = node.id
            elif isinstance(node, ast.Attribute) and node.attr in classes and getattr(node.value, "id", "") not in foreign:
                word = node.attr
            elif isinstance(node, ast.ImportFrom) and node.level:
                named = {a.name for a in node.names} | set((node.module or "").split("."))
                word = ", ".join(named & (classes | kinds)) if "modalities" in named or named & classes else ""
            if word:
                found.append(f"{path}:{node.lineno}: {word}")
    for template in sorted(p for p in src.rglob("*") if p.suffix in (".html", ".css", ".txt", ".toml", ".md")):
        for k, line in enumerate(template.read_text("utf-8").splitlines(), 1):
            if re.search(rf"[\"']({'|'.join(kinds)})[\"']", line):
                found.append(f"{template.name}:{k}: {line.strip()}")
    return found


def test_imports_only_go_down():
    assert wrong_arrows(SRC) == []


def test_only_three_rooms_know_the_modality():
    assert knows_modality(SRC) == []


@pytest.fixture
def copy(tmp_path) -> Path:
    shutil.copytree(SRC, tmp_path / "datadistill", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "datadistill"


@pytest.mark.parametrize(
    ("path", "line", "way"),
    [
        ("methods/planted.py", "from ..evaluate import judge", "sideways"),
        ("evaluate/planted.py", "from datadistill.methods import get", "sideways"),
        ("evaluate/planted.py", "from .. import methods", "sideways"),
        ("data/planted.py", "def f():\n    from ..synthetic.set import SyntheticSet", "up"),
        ("rng.py", "import datadistill.run", "up"),
        ("match/planted.py", "from ..cli import main", "up"),
        ("report/planted.py", "import importlib\nimportlib.import_module('datadistill.cli.main')", "up"),
        ("attic/planted.py", "", "no floor"),
    ],
)
def test_a_planted_arrow_is_found(copy, path, line, way):
    before = wrong_arrows(copy)
    (copy / path).parent.mkdir(exist_ok=True)
    with open(copy / path, "a") as file:
        file.write(f"\n{line}\n")
    new = [w for w in wrong_arrows(copy) if w not in before]
    assert len(new) == 1 and way in new[0]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("methods/planted.py", "def f(task):\n    return task.modality.name == 'image'"),
        ("training/planted.py", "from ..modalities import Tabular"),
        ("report/planted.py", "from .. import modalities\nmodalities.Image"),
        ("store/planted.py", "from ..modalities.image import OPERATIONS"),
        ("report/planted.html", "{% if kind == 'tabular' %}"),
    ],
)
def test_planted_knowledge_of_a_modality_is_found(copy, path, text):
    before = knows_modality(copy)
    (copy / path).write_text(text)
    assert set(knows_modality(copy)) - set(before)


def test_another_library_may_have_an_image_too(copy):
    before = knows_modality(copy)
    (copy / "report" / "planted.py").write_text("from PIL import Image\nImage.new('L', (1, 1))\nlabel = 'an image of a class'")
    assert knows_modality(copy) == before
