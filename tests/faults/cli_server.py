"""A process that has imported everything and forks a real run of the command line per request: no second of import each.

Started as a script. Reads one JSON object per line: {"argv": [...], "out": FILE, "err": FILE, "env": {...}, "first": PYTHON}
and answers {"pid": ...}; {"wait": PID} answers {"code": ...}, minus the signal for a killed one. `first` runs in the child before.
"""

from __future__ import annotations

import json
import os
import sys
import traceback


def child(request: dict) -> None:
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), fd)
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    code = 99
    try:
        exec(request["first"], {})
        from datadistill.cli.main import run

        code = run(request["argv"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    import torch

    import datadistill.api
    import datadistill.cli.main  # noqa: F401
    from datadistill import methods

    methods.all_methods()
    torch.optim.SGD([torch.zeros(1)], lr=1.0)  # torch imports half of itself at the first optimiser
    torch.set_num_threads(1)  # a fork does not carry a pool of threads along
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])}
        elif pid := os.fork():
            answer = {"pid": pid}
        else:
            child(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
