"""A folder of pictures, or any other source, to a set and an honest verdict.

    python examples/folder_to_verdict.py photos         or: digits, flowers.npz, ...
"""

import sys

import datadistill
from datadistill.progress import stderr_progress

source = sys.argv[1] if len(sys.argv) > 1 else "digits"

small = datadistill.distill(source, method="herding", ipc=5, progress=stderr_progress())
result = datadistill.evaluate(small, source, protocol="quick", progress=stderr_progress())

print(f"{result['verdict']}: {result['reason']}")
for name, arm in result["arms"].items():
    low, high = arm["accuracy"]["ci95"]
    print(f"{name:>18}  {arm['accuracy']['mean']:.3f}  [{low:.3f}, {high:.3f}]")
