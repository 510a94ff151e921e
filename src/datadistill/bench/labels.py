"""Other labels for a set that is there, and what they are worth: bytes, and accuracy on validation data."""

from __future__ import annotations

from typing import Any

import torch

from .. import store
from ..data.task import Real
from ..errors import UsageError
from ..evaluate import Arm, Protocol
from ..evaluate.score import on_validation, train
from ..labels import Augmented, Hard, Labels, Taught
from ..nets import Net
from ..progress import Progress
from ..rng import seed_of
from ..run import Run
from ..synthetic import SyntheticSet
from ..synthetic.artifact import Artifact
from ..training.relabel import Relabel, relabel


def label_bytes(labels: Labels) -> int:
    """Of the file that holds them, names and shapes included."""
    return len(store.to_bytes(labels.tensors()))


def with_labels(artifact: Artifact, labels: Labels, note: dict[str, Any]) -> Artifact:
    """The same examples with other labels; a verdict on the old ones is left behind, `note` goes into the manifest as "labels"."""
    files = {name: data for name, data in artifact.files.items() if name != "evaluation.json"}
    return Artifact(artifact.x, labels, artifact.modality, {**artifact.about, "labels": note}, files, (artifact.form, artifact.tensors))


def compressed(artifact: Artifact, to: str, *, seed: int = 0) -> Artifact:
    """The set with its labels of views compressed (see `Augmented.compressed`)."""
    if not isinstance(artifact.labels, Augmented):
        kind = "teachers as labels" if isinstance(artifact.labels, Taught) else f"one {'class' if isinstance(artifact.labels, Hard) else 'soft label'} for each example"
        raise UsageError(f"a set with {kind}: there is nothing to compress", "labels of views", "datadistill labels write DIR --data SOURCE --kind views")
    labels = artifact.labels.compressed(to, seed=seed)
    note = {**artifact.about.get("labels", {}), "compressed": to, "bytes_before": label_bytes(artifact.labels), "bytes": label_bytes(labels)}
    return with_labels(artifact, labels, note)


def rewritten(artifact: Artifact, teachers: list[Net], how: Relabel, run: Run) -> Artifact:
    """The set with labels that teachers write for its examples as they are stored."""
    if artifact.each > 1:
        raise UsageError(f"labels of views for items that give {artifact.each} examples each", "a set of form 'pixels'")
    if how.kind in ("views", "teacher") and "grid" not in artifact.modality.traits:
        raise UsageError(f"labels of views of {artifact.modality.name} data, which cannot be cropped", "--kind soft or hard", "--kind soft")
    hard = Hard(artifact.y, len(artifact.spec.classes))
    syn = SyntheticSet(artifact.modality.read(artifact.x), hard, artifact.modality, rows=artifact.x)
    labels = relabel(syn, teachers, how, run)
    return with_labels(artifact, labels, {"kind": how.kind, "bytes": label_bytes(labels)})


def accuracy(artifact: Artifact, val: Real, protocol: Protocol, *, seed: int = 0, device: str | torch.device = "cpu", progress: Progress) -> dict[str, float]:
    """student family -> accuracy on validation data of one student at the protocol's middle rate: for comparing two kinds of labels
    of one set, since the same seed gives both the same first weights and order. Not a verdict, and never the test split.
    """
    lr = protocol.lrs[len(protocol.lrs) // 2]
    arm = Arm("labels", lambda _: (artifact, artifact.labels), protocol.steps, bool(artifact.about.get("recipe", {}).get("augment", True)))
    students = protocol.students(artifact.modality, tuple(artifact.about.get("method", {}).get("nets", ())))
    found = {}
    with progress.bar("training students", len(students)) as bar:
        for student in students:
            found[student] = on_validation(train(arm, student, lr, protocol, seed_of(seed, "labels"), device=device), val, device)[0]
            bar.advance(1)
    return found
