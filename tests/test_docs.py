"""The documentation is true: its code runs, what it shows is what comes out, its links lead somewhere, nothing in it is stale.

Each page is one session in an empty folder with some data in it (`example_data`): ```python blocks share their names, and of
```console blocks each line after `$ ` is run; it must fail if the output shown has a line "error: ...". Everything runs at the scale of tests/tiny.py, so numbers differ:
output is compared with digits masked. A block that cannot be run says why: `<!-- not run: reason -->` on the line before.
`<!-- shown: reason -->` runs it but does not compare.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tiny
from house import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import reference

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
BLOCK = re.compile(r"(?:^<!-- (?P<word>not run|shown): (?P<why>[^\n]+) -->\n)?^```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
MOST_NOT_RUN = 12


@dataclass(frozen=True)
class Block:
    line: int
    kind: str
    code: str
    word: str  # "", "not run" or "shown"
    why: str


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text("utf-8")
    for m in BLOCK.finditer(text):
        yield Block(text[: m.start("code")].count("\n") + 1, m["kind"], m["code"], m["word"] or "", m["why"] or "")


def steps(code: str) -> Iterator[tuple[str, list[str]]]:
    """(command, the output lines shown below it) of a console block; a command goes on after a backslash."""
    command, shown, more = "", [], False
    for line in code.splitlines():
        if more:
            command, more = f"{command}\n{line}", line.endswith("\\")
        elif line.startswith("$ "):
            if command:
                yield command, shown
            command, shown, more = line[2:], [], line.endswith("\\")
        else:
            assert command, f"a console block begins with output: {line!r}"
            shown.append(line)
    if command:
        yield command, shown


def mask(line: str) -> str:
    """A line with what varies taken out: numbers with their units, hashes, and how much white space there is."""
    line = re.sub(r"\b[0-9a-f]{16,64}\b", "#", line)
    line = re.sub(r"\d[\d.,]*\s*(B|KiB|MiB|GiB|h|min|s)\b", "#", line)
    line = re.sub(r"(# )+#", "#", re.sub(r"-?\d[\d.,]*", "#", line))
    return re.sub(r"\s+", " ", line).strip()


@pytest.fixture
def example_data(tmp_path) -> Path:
    """What the pages talk about: photos/ (two classes), arrays.npz (Keras names), iris.csv (label: species)."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_iris

    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(24):
            Image.fromarray((rng.integers(0, 128, (16, 16, 3)) + 100 * c).astype(np.uint8)).save(tmp_path / "photos" / name / f"{k:02d}.png")
    x, y = rng.integers(0, 255, (60, 12, 12), dtype=np.uint8), np.arange(60) % 3
    np.savez(tmp_path / "arrays.npz", x_train=x[:45], y_train=y[:45], x_test=x[45:], y_test=y[45:])
    frame = load_iris(as_frame=True).frame
    frame["species"] = np.array(["setosa", "versicolor", "virginica"])[frame.pop("target")]
    frame.to_csv(tmp_path / "iris.csv", index=False)
    return tmp_path


@pytest.fixture
def session(example_data, monkeypatch) -> Iterator[dict[str, str]]:
    """The environment of a session: `datadistill` and `python` are this checkout's; the first, and this process, at a tiny scale."""
    (example_data / "bin").mkdir()
    for name, target in (("datadistill", f'"{sys.executable}" "{Path(tiny.__file__)}"'), ("python", f'"{sys.executable}"')):
        (example_data / "bin" / name).write_text(f'#!/bin/sh\nexec {target} "$@"\n')
        (example_data / "bin" / name).chmod(0o755)
    env = {k: v for k, v in os.environ.items() if not k.startswith("DATADISTILL_")}
    env |= {"PATH": f"{example_data / 'bin'}:{env['PATH']}", "XDG_CACHE_HOME": str(example_data.parent / "cache"), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(example_data)
    undo = tiny.shrink()
    yield env
    undo()


def run(command: str, env: dict[str, str]) -> tuple[int, str]:
    """(exit code, everything printed). `datadistill ...` alone runs in this process, which has torch loaded already."""
    if re.fullmatch(r"datadistill [^|&;<>$`\n]*", command):
        from datadistill.cli.main import run as datadistill

        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = datadistill(shlex.split(command)[1:])
        return code, out.getvalue()
    done = subprocess.run(["bash", "-e", "-c", command], env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def run_page(page: Path, env: dict[str, str]) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.word == "not run":
            continue
        if block.kind == "python":
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
        elif block.kind in ("console", "bash"):
            for command, shown in steps(block.code) if block.kind == "console" else [(block.code, [])]:
                code, printed = run(command, env)
                fails = any(line.startswith("error: ") for line in shown)
                assert (code != 0) == fails, f"{where}: $ {command}\nexit code {code}\n{printed}"
                if block.word != "shown":
                    came = {mask(line) for line in printed.splitlines()}
                    missing = [line for line in shown if line.strip() not in ("", "...") and mask(line) not in came]
                    assert not missing, f"{where}: $ {command}\nshown but not printed: {missing}\nprinted:\n{printed}"


@pytest.mark.parametrize("page", [p for p in PAGES if any(b.kind in ("python", "console", "bash") for b in blocks(p))], ids=lambda p: p.name)
def test_the_page_runs(page, session):
    run_page(page, session)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_the_example_runs(example, session, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(example)])
    runpy.run_path(str(example), run_name="__main__")
    assert capsys.readouterr().out.strip(), "an example shows something"


def test_there_are_examples_and_pages():
    assert len(EXAMPLES) >= 3 and len(PAGES) >= 12


def test_few_blocks_are_left_out():
    left = [f"{p.name}:{b.line}: {b.why}" for p in PAGES for b in blocks(p) if b.word]
    assert len(left) <= MOST_NOT_RUN, "\n".join(left)


@pytest.mark.parametrize(
    ("text", "why"),
    [("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", "AssertionError"),
     ("```console\n$ false\n```\n", r"\$ false"),
     ("```console\n$ echo 12 cats\n13 dogs\n```\n", "shown but not printed"),
     ("```console\n$ datadistill methodz\n```\n", "No such command"),
     ("```bash\ntrue\nexit 3\n```\n", "exit 3")],
)  # fmt: skip
def test_a_false_page_is_noticed(tmp_path, session, text, why):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(AssertionError) as error:
        run_page(tmp_path / "page.md", session)
    assert re.search(why, f"{error.type.__name__}: {error.value}")


def test_a_true_page_passes(tmp_path, session):
    (tmp_path / "page.md").write_text("```console\n$ echo 12 cats, \\\n  7.5 s\n13 cats, 8.1 s\n```\n<!-- not run: no such thing -->\n```bash\nfalse\n```\n```toml\nx = \n```\n")
    run_page(tmp_path / "page.md", session)


# -- what is generated, linked and named -----------------------------------------------------------------------------


@pytest.mark.parametrize("page", [p for p in PAGES if "<!-- generated:" in p.read_text("utf-8")], ids=lambda p: p.name)
def test_generated_parts_are_fresh(page):
    text = page.read_text("utf-8")
    assert reference.fresh(text) == text, "stale: run `make docs`"


def test_staleness_is_noticed():
    text = "<!-- generated: methods_overview -->\nold\n<!-- end -->"
    assert reference.fresh(text) != text and reference.fresh(reference.fresh(text)) == reference.fresh(text)


def anchors(page: Path) -> set[str]:
    """The anchors that Markdown renderers give to headings."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    dead = []
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)):
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if not goal.exists() or (anchor and goal.suffix == ".md" and anchor not in anchors(goal)):
            dead.append(target)
    assert dead == []


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text("utf-8")
    assert [p.name for p in PAGES[1:] if f"docs/{p.name}" not in text] == []
