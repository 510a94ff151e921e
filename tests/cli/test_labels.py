"""`datadistill labels`: what it tells is what lies on the disk."""

from __future__ import annotations

import json

import datadistill
from datadistill.cli.main import run as cli


def test_the_bytes_that_are_told_are_those_on_the_disk(tmp_path, capfd):
    before, after = tmp_path / "set", tmp_path / "smaller"
    datadistill.distill("digits", "random-labelled", ipc=1, out=before, labels="views", label_epochs=4, width=4, epochs=1)
    assert cli(["labels", "compress", str(before), "--to", "top3", "--out", str(after), "--json", "-q"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["bytes_before"] == (before / "labels.safetensors").stat().st_size
    assert told["bytes"] == (after / "labels.safetensors").stat().st_size < told["bytes_before"]
