"""Manifests, evaluations and galleries as the rest of the package writes them, made up: no set is distilled here."""

from __future__ import annotations

import io
import math
import random
from typing import Any

from PIL import Image

from datadistill.modalities.base import Preview
from datadistill.report import Item

LOADING = {
    "torch": 'import datadistill\nset = datadistill.load("digits-dm")\nx, y = set.to_torch()',
    "numpy": 'from safetensors.numpy import load_file\nx = load_file("digits-dm/samples.safetensors")["samples"]\ny = load_file("digits-dm/labels.safetensors")["labels"]',
    "datasets": 'from datasets import load_dataset\nset = load_dataset("imagefolder", data_dir="digits-dm/preview")\nset["train"][0]',
}


def manifest(classes: list[str], *, per_class: int = 10, selection: bool = False, **changes: Any) -> dict[str, Any]:
    n = per_class * len(classes)
    noise = random.Random(0)
    return {
        "format": 1, "sha256": "9f2c" * 16,
        "spec": {"modality": "m", "shape": [1, 8, 8], "stored": [8, 8, 1], "dtype": "uint8", "classes": classes, "facts": {}},
        "budget": {"items": n, "bytes": n * 72, "per_class": [per_class] * len(classes)},
        "method": {
            "name": "herding" if selection else "dm", "family": "selection" if selection else "distribution", "nets": ["convnet"],
            "paper": "Dataset Condensation with Distribution Matching (WACV 2023, arXiv 2110.04181)",
            "hyperparameters": {"iterations": 20000, "lr": 1.0, "real_batch": 256, "init": "real", "augment": True, "net": "auto"},
        },
        "seed": 0,
        "data": {
            "source": "digits", "kind": "scikit-learn's bundled digits", "modality": "m",
            "counts": {s: {c: k + i % 7 for i, c in enumerate(classes)} for s, k in {"train": 121, "val": 15, "test": 36}.items()},
            "shape": [8, 8, 1], "modes": {"L": 1797}, "mode": "L", "split": {"found": ["train"], "made": {"test": 0.2, "val": 0.1}, "seed": 0}, "rejects": [["a/b.png", "truncated"]], "warnings": [],
            "fingerprint": "77aa" * 16, "license": "CC BY 4.0", "source_url": "https://archive.ics.uci.edu/dataset/80",
        },
        "packages": {"python": "3.11.9", "torch": "2.13.0+cpu", "numpy": "2.4.1", "datadistill": "0.1.0"},
        "cost": {"seconds": 48.2, "flops": 3.1e12, "peak_memory_bytes": 412e6},
        "curve": [] if selection else [{"step": s, "loss": 40 * math.exp(-s / 500) * noise.uniform(0.7, 1.4) + 0.1 * noise.uniform(0.7, 1.4)} for s in range(0, 4000, 10)],
        "notes": [], "contains_originals": selection, "recipe": {"lr": None, "steps": None, "augment": True},
        "files": {"samples.safetensors": {"sha256": "ab" * 32, "bytes": n * 64}, "labels.safetensors": {"sha256": "cd" * 32, "bytes": n * 8}},
        **changes,
    }


def summary(runs: list[float]) -> dict[str, Any]:
    """The mean of five runs and its 95% t-interval."""
    mean = sum(runs) / 5
    half = 2.776 * math.sqrt(sum((r - mean) ** 2 for r in runs) / 4 / 5)
    return {"mean": mean, "ci95": [mean - half, mean + half], "runs": runs}


def evaluation(classes: list[str], verdict: str = "PASS", *, per_class: int = 10, seed: int = 1, **changes: Any) -> dict[str, Any]:
    means = {"PASS": (0.871, 0.819, 0.853), "USE-CORESET": (0.851, 0.819, 0.883), "FAIL": (0.815, 0.819, 0.853)}[verdict]
    arms = dict(zip(("distilled", "random", "coreset", "full", "full_equal_steps"), (*means, 0.973, 0.958), strict=True))
    noise = random.Random(seed)
    real = sum(121 + i % 7 for i in range(len(classes)))
    n, students = per_class * len(classes), ("mlp", "convnet")

    def score(mean: float, spread: float) -> dict[str, Any]:
        return summary([mean + noise.gauss(0, spread) for _ in range(5)])

    def arm(name: str, mean: float) -> dict[str, Any]:
        full = name.startswith("full")
        spread = 0.003 if full else 0.012
        recall = {c: min(1.0, max(0.0, mean + noise.gauss(0, 0.02 if full else 0.12))) for c in classes}
        own = {"method": "herding", "candidates": {"herding": 0.9, "k-center": 0.85}} if name == "coreset" else {}
        size = {"items": real if full else n, "bytes": real * 72 if full else n * 72, "steps": 5000 if name == "full" else 1000}
        return {**own, **size, "accuracy": score(mean, spread), "students": {s: {**score(mean + d, spread), "lr": 0.01} for s, d in zip(students, (-0.01, 0.01), strict=True)}, "recall": recall}

    arms = {name: arm(name, mean) for name, mean in arms.items()}
    own = arms["distilled"]["accuracy"]["runs"]
    differences = {name: summary([a - b for a, b in zip(own, arms[name]["accuracy"]["runs"], strict=True)]) for name in ("random", "coreset")}
    return {
        "verdict": verdict, "reason": f"The made-up reason for {verdict}.",
        "protocol": {"name": "fair-1", "hash": "5d1e" * 16, "students": list(students), "steps": 1000, "optimizer": "sgd"},
        "budget": {"items": n, "bytes": n * 72}, "arms": arms, "differences": differences,
        "cost": {"distill": {"seconds": 48.2, "flops": 3.1e12, "peak_memory_bytes": 412e6}, "student": {"seconds": 2.1, "flops": 8.2e10, "peak_memory_bytes": 120e6},
                 "full": {"seconds": 10.4, "flops": 4.1e11, "peak_memory_bytes": 150e6}, "break_even_trainings": 5.8},
        "seeds": [0, 1, 2, 3, 4], "artifact": "9f2c" * 16, "data": {"source": "digits", "same_as_distilled": True}, "notes": [], **changes,
    }


def png(side: int, seed: int, mode: str = "L") -> bytes:
    """A soft blob of noise, side x side."""
    noise = random.Random(seed)
    cx, cy = (noise.uniform(0.3, 0.7) * side for _ in "xy")
    fall = [math.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (0.09 * side**2)) for y in range(side) for x in range(side)]
    picture = Image.new(mode, (side, side))
    tint = [noise.uniform(0.2, 1) for _ in mode]
    pixels = [tuple(int(255 * min(1, f * t + noise.uniform(0, 0.15))) for t in tint) for f in fall]
    picture.putdata([p[0] for p in pixels] if mode == "L" else pixels)
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def pictures(classes: list[str], per_class: int = 10, side: int = 8, mode: str = "L") -> list[Item]:
    items = []
    for c, label in enumerate(classes):
        for k in range(per_class):
            near = classes[(c + 1) % len(classes)] if k % 9 == 8 else label
            items.append(Item(label, Preview(png=png(side, 100 * c + k, mode)), Preview(png=png(side, 100 * c + k + 7, mode)), near, 1.2 + 0.37 * k))
    return items


def rows(classes: list[str], per_class: int = 10, columns: tuple[str, ...] = ("age", "workclass", "education", "hours-per-week", "capital-gain", "native-country")) -> list[Item]:
    noise = random.Random(0)

    def row() -> Preview:
        words = ("Private", "Self-emp-not-inc", "Bachelors", "HS-grad", "United-States", "")
        return Preview(cells=tuple((name, f"{noise.uniform(0, 99):.6g}" if k % 3 == 0 else noise.choice(words)) for k, name in enumerate(columns)))

    return [Item(label, row(), row(), label, noise.uniform(0.1, 3)) for label in classes for _ in range(per_class)]
