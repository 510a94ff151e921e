"""A driver that is killed or stopped: `python driver.py ENGINE FOLDER [ADDRESS]` does six units, of which all but the first two wait for FOLDER/go."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch
from kit import done, work_in

from datadistill import store
from datadistill.engine import opened
from datadistill.run import Run

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background of a shell has not
    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "ray":
        import kit
        import ray.cloudpickle

        ray.cloudpickle.register_pickle_by_value(kit)
    place = store.Workspace(folder / "out", {"what": "a test"})
    place.begin()
    with opened(name, 2, sys.argv[3] if len(sys.argv) > 3 else None) as engine:
        made = done(Run(3, snapshots=place, engine=engine), work_in(folder / "marks", wait_for={k: folder / "go" for k in range(2, 6)}))
    store.write_file(folder / "made.safetensors", store.to_bytes({str(k): x for k, x in enumerate(made)}))
    torch.set_num_threads(1)
