"""What was measured, for the documentation: tables and a picture, from benchmarks/results/*.json."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from datadistill import methods

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
COLOURS = {"selection": "#555", "gradient": "#1b9e77", "distribution": "#d95f02", "trajectory": "#7570b3", "kernel": "#e7298a", "decoupled": "#1f78b4", "generative": "#a6761d"}
SMALL = ("digits", "pneumoniamnist")
LINES = ("#000", "#888", "#e69f00", "#d95f02", "#1b9e77", "#7570b3", "#56b4e9", "#e7298a", "#a6761d")  # of methods in curves, in turn
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 400, 330, 46, 34, 40
LETTER = 6.2  # the width of one
Point = tuple[float, float, str, str]  # x, accuracy, method, family
Place = tuple[float, float, float]  # of a text: from x, to x, at y


def boards(kind: str = "image") -> list[dict[str, Any]]:
    """Every board that was measured on such data ("small" for small sets of pictures), data set by data set, by items per class."""
    return sorted((b for b in results("board_*.json") if ("small" if b["data"] in SMALL else b.get("modality", "image")) == kind), key=lambda b: (b["data"] != "fashion_mnist", b["data"], b["ipc"]))


def where(found: dict[str, Any]) -> str:
    """Of which data, and how many items per class."""
    return f"{found['data'].replace('_', '-')}, {found['ipc']}"


def mean(row: dict[str, Any] | None) -> float | None:
    return row["accuracy"]["mean"] if row and "accuracy" in row else None


def ranks(board: dict[str, Any]) -> dict[str, int]:
    """1 for the best; all of the training data takes no part, nor do settings that somebody chose (after a colon)."""
    scored = {name: mean(row) for name, row in board["methods"].items() if name != "full" and ":" not in name and mean(row) is not None}
    return {name: 1 + sum(other > own for other in scored.values()) for name, own in scored.items()}


def called(method: str) -> str:
    """Its name in a table."""
    return f"`{method}`" if method != "full" else "all of the data"


def shown(row: dict[str, Any] | None) -> str:
    """Mean accuracy in per cent, and half its interval."""
    return "" if row is None else interval(row["accuracy"]) if "accuracy" in row else "failed"


def interval(accuracy: dict[str, Any]) -> str:
    low, high = accuracy["ci95"]
    return f"{100 * accuracy['mean']:.1f} ± {50 * (high - low):.1f}"


def rows(kind: str = "image") -> tuple[list[str], list[list[object]]]:
    """(head, rows): accuracy on each board, the mean rank over them; seconds and bytes of the last board that has the method."""
    all_of = boards(kind)
    placed = [ranks(board) for board in all_of]
    names = {name for board in all_of for name in board["methods"] if ":form=" not in name}
    rank = {name: sum(own) / len(own) for name in names if (own := [p[name] for p in placed if name in p])}
    head = ["method", "family", *map(where, all_of), "mean rank", "seconds", "bytes"]
    table: list[list[object]] = []
    for name in sorted(names, key=lambda n: (n != "full", rank.get(n, math.inf), n)):
        last = next((r for b in reversed(all_of) if (r := b["methods"].get(name)) and "bytes" in r), {})
        seconds = f"{last['seconds']:.0f}" if last and name != "random" else ""
        place = f"{rank[name]:.1f}" if name in rank else ""
        table.append([called(name), last.get("family", "selection" if name == "random" else ""), *(shown(b["methods"].get(name)) for b in all_of), place, seconds, f"{last['bytes']:,}" if last else ""])
    return head, table


def with_bytes(row: dict[str, Any] | None) -> str:
    return shown(row) + (f"<br>{row['bytes']:,} bytes" if row and "bytes" in row else "")


def forms() -> tuple[list[str], list[list[object]]]:
    """(head, rows): one method with its items stored in each form, accuracy and bytes on each board."""
    all_of = boards()
    stored = {name.partition(":form=")[2] or "pixels": name for board in all_of for name in board["methods"] if name == "dm" or name.startswith("dm:form=")}
    head = ["form", *map(where, all_of)]
    return head, [[f"`{form}`", *(with_bytes(b["methods"].get(name)) for b in all_of)] for form, name in stored.items()]


def results(pattern: str) -> Iterator[dict[str, Any]]:
    yield from (json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob(pattern)))


def decoupled() -> tuple[list[str], list[list[object]]]:
    """(head, rows): each arm's accuracy and bytes, data set by data set and budget by budget."""
    all_of = list(results("decoupled_*.json"))
    columns = [(found, ipc) for found in all_of for ipc in dict.fromkeys(row["ipc"] for row in found["rows"].values())]
    head = ["stored", *(f"{found['data']}{' at ' + str(found['side']) if found['side'] else ''}, {ipc}" for found, ipc in columns)]
    table: list[list[object]] = [["all of the data", *(shown(found["rows"].get("full")) for found, _ in columns)]]
    for arm in dict.fromkeys(arm for found in all_of for arm in found["arms"] if arm != "full"):
        table.append([arm, *(with_bytes(found["rows"].get(f"{arm}, {ipc} per class")) for found, ipc in columns)])
    return head, table


def crossed() -> tuple[list[str], list[list[object]]]:
    """(head, rows): accuracy of students of other families on the same sets."""
    table, students = [], []
    for found in results("cross_*.json"):
        for name, row in found["methods"].items():
            students = list(row.get("students", students))
            table.append([where(found), called(name), *(interval(row["students"][s]) for s in row.get("students", ()))])
    return ["data, items per class", "method", *students], table


def at_paper_scale() -> tuple[list[str], list[list[object]]]:
    """(head, rows): of each method and budget the set half way and at the end, and the paper's number."""
    (found,) = results("paper_scale.json")
    table: list[list[object]] = []
    for cell, row in found["cells"].items():
        name, _, ipc = cell.partition(":")
        paper = methods.get(name).iterations if "iterations" in row["settings"] else None
        steps = f"{row['settings']['iterations']:,} of {paper:,}" if paper else ""
        half, last = (interval(row["accuracy"][when]) if when in row["accuracy"] else "" for when in ("half", "last"))
        table.append([int(ipc), called(name), steps, half, last, row["published"] or "", round(row["seconds"])])
    table.sort(key=lambda row: row[0])
    return ["items per class", "method", "iterations", "half way", "at the end", "published", "seconds"], table


def lengths() -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Of (data and items per class, method): steps of the students -> what they reached."""
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for data, ipc, method, steps, cell in ((*key.split(), cell) for kept in results("steps.json") for key, cell in kept["cells"].items()):
        found.setdefault((where({"data": data, "ipc": ipc}), method), {})[int(steps)] = cell
    return found


def by_steps() -> tuple[list[str], list[list[object]]]:
    """(head, rows): of each set the accuracy of students that have trained for so many steps."""
    found = lengths()
    counts = sorted({n for own in found.values() for n in own})
    table = [[data, called(method), *(shown(own.get(n)) for n in counts)] for (data, method), own in found.items()]
    return ["data, items per class", "method", *(f"{n} steps" for n in counts)], table


def curves() -> str:
    """Accuracy against the students' steps, data set by data set."""
    found, parts = lengths(), []
    all_of = list(dict.fromkeys(data for data, _ in found))
    colours = dict(zip(dict.fromkeys(method for _, method in found), LINES, strict=False))
    for k, data in enumerate(all_of):
        lines = {m: [(math.log10(n), share) for n, cell in sorted(own.items()) if (share := mean(cell)) is not None] for (d, m), own in found.items() if d == data}
        at, axes = frame(f"{data} per class", "steps that a student trains (log)", *(list(axis) for axis in zip(*sum(lines.values(), []), strict=True)), k * WIDTH, 0)
        taken: list[Place] = []
        parts += axes
        for method, line in sorted(lines.items(), key=lambda item: -item[1][-1][1]):  # names from the top down
            points = [at(*point) for point in line]
            name, x = "all data" if method == "full" else method, points[-1][0] + 4
            y = free(x, points[-1][1] + 4, name, taken, step=2)
            parts.append(f'<polyline points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}" fill="none" stroke="{colours[method]}" stroke-width="2"/>')
            parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{colours[method]}">{escape(name)}</text>')
    return drawing(len(all_of) * WIDTH, HEIGHT, parts)


def drawing(width: int, height: int, parts: list[str]) -> str:
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"


def steady() -> tuple[list[str], list[list[object]]]:
    """(head, rows): of each data set how many methods were distilled, and which of them ended badly or not at all."""
    table: list[list[object]] = []
    for found in results("stability.json"):
        for data in dict.fromkeys(cell.split()[0] for cell in found["cells"]):
            own = {cell.split()[1]: about for cell, about in found["cells"].items() if cell.split()[0] == data}
            count = lambda good, own=own: sum(map(good, own.values()))  # noqa: E731
            bad = [f"`{method}`: {about.get('failed', 'not finite, or a rate that is not positive')}" for method, about in own.items() if not about.get("good", "refused" in about)]
            table.append([data.replace(":", " at "), count(lambda a: "refused" not in a), count(lambda a: a.get("good", False)), count(lambda a: bool(a.get("undone"))), "; ".join(bad)])
    return ["data", "methods", "end well", "of these, undid a step", "do not"], table


def front(points: list[Point]) -> set[Point]:
    """Those that nothing is both cheaper and better than."""
    return {p for p in points if not any(q[0] <= p[0] and q[1] >= p[1] and q[:2] != p[:2] for q in points)}


def frame(title: str, unit: str, xs: list[float], ys: list[float], left: float, top: float) -> tuple[Callable[[float, float], tuple[float, float]], list[str]]:
    """(where a point is drawn, the axes): logarithms xs below, shares ys at the side."""
    x0, x1, y0, y1 = min(xs) - 0.1, max(xs) + 0.35, math.floor(min(ys) * 10) / 10, math.ceil(max(ys) * 10) / 10

    def at(x: float, y: float) -> tuple[float, float]:
        return left + LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - 10), top + TOP + (y1 - y) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{left + LEFT}" y="{top + 18}" font-weight="bold">{escape(title)}</text>']
    for k in range(round((y1 - y0) * 10) + 1):
        x, y = at(x0, y0 + k / 10)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{left + WIDTH - 10:.0f}" stroke="#ddd"/><text x="{x - 4:.0f}" y="{y + 4:.1f}" text-anchor="end">{100 * (y0 + k / 10):.0f}%</text>')
    for tick in (digit * 10**power for power in range(math.floor(x0), math.ceil(x1)) for digit in (1, 3)):
        if x0 <= math.log10(tick) <= x1 and tick >= 1:
            x, y = at(math.log10(tick), y0)
            parts.append(f'<text x="{x:.1f}" y="{y + 14:.1f}" text-anchor="middle">{tick:,.0f}</text>')
    return at, [*parts, f'<text x="{left + WIDTH / 2:.0f}" y="{top + HEIGHT - 8:.0f}" text-anchor="middle">{escape(unit)}</text>']


def free(x: float, y: float, text: str, taken: list[Place], step: int = -2) -> float:
    """The y of a place for a text, from here in steps, that covers none of those taken, and is one of them from now on."""
    end = x + LETTER * len(text)
    while any(x < right and left < end and abs(y - other) < 11 for left, right, other in taken):
        y += step
    taken.append((x, end, y))
    return y


def panel(title: str, unit: str, points: list[Point], lines: dict[str, float], left: float, top: float) -> Iterator[str]:
    if not points:
        return
    xs = [math.log10(max(p[0], 0.1)) for p in points]
    at, axes = frame(title, unit, xs, [p[1] for p in points] + list(lines.values()), left, top)
    yield from axes
    best, taken, named = front(points), [], []
    for name, value in lines.items():
        x, y = left + WIDTH - 10, at(0, value)[1]
        yield f'<path d="M{left + LEFT} {y:.1f}H{x:.0f}" stroke="#000" stroke-dasharray="4 3"/><text x="{x:.0f}" y="{y - 3:.1f}" text-anchor="end">{escape(name)}</text>'
        taken.append((x - LETTER * len(name), x, y - 3))
    for log, point in sorted(zip(xs, points, strict=True)):
        (_, accuracy, name, family), (x, y) = point, at(log, point[1])
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{COLOURS.get(family, "#999")}"><title>{escape(name)}: {100 * accuracy:.1f}%</title></circle>'
        if point in best:
            name = name.replace(":form=", ", ")
            own = free(x + 8, y - 5, name, taken)
            line = f'<path d="M{x:.1f} {y:.1f}L{x + 7:.1f} {own - 3:.1f}" stroke="#555"/>' if own < y - 12 else ""
            named.append(f'{line}<text x="{x + 8:.1f}" y="{own:.1f}">{escape(name)}</text>')
    yield from named  # over all points


def scored(board: dict[str, Any], key: str) -> list[Point]:
    """Every method, by its own settings or in another form; all of the data takes no part."""
    wanted = {n: r for n, r in board["methods"].items() if mean(r) is not None and n != "full" and (":" not in n or ":form=" in n)}
    return [(float(r[key]), r["accuracy"]["mean"], n, r.get("family", "selection")) for n, r in sorted(wanted.items())]


def level(board: dict[str, Any], **names: str) -> dict[str, float]:
    """The accuracy of these rows of the board, as lines to draw, under the names given."""
    return {text: found for name, text in names.items() if (found := mean(board["methods"].get(name))) is not None}


def picture() -> str:
    """A row for each data set: accuracy against seconds, budget by budget, and against bytes over all budgets; named are those that nothing beats in both."""
    parts: list[str] = []
    by_data = [list(own) for _, own in groupby(boards(), key=lambda b: b["data"])]
    for k, own in enumerate(by_data):
        for j, board in enumerate(own):
            timed = [point for point in scored(board, "seconds") if point[2] != "random" and ":" not in point[2]]
            parts += panel(f"{where(board)} per class", "seconds to distil (log)", timed, level(board, full="all of the data", random="random"), j * WIDTH, k * HEIGHT)
        title = " and ".join([where(own[0]), *(str(b["ipc"]) for b in own[1:])])
        stored = [point for board in own for point in scored(board, "bytes")]
        parts += panel(f"{title} per class", "bytes stored (log)", stored, level(own[0], full="all of the data"), len(own) * WIDTH, k * HEIGHT)
    width, bottom = (1 + max(map(len, by_data))) * WIDTH, len(by_data) * HEIGHT
    for k, (family, colour) in enumerate(COLOURS.items()):
        parts.append(f'<circle cx="{60 + 120 * k}" cy="{bottom + 12}" r="4" fill="{colour}"/><text x="{68 + 120 * k}" y="{bottom + 16}">{family}</text>')
    return drawing(width, bottom + 30, parts)
