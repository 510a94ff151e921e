"""The package at a tiny scale: what documentation and examples are run with, so that every command in them is run.

Imported, it does nothing. `shrink()` cuts iterations, training steps and learning rates in this process and returns how to undo it;
run as a program, it is the `datadistill` command line so cut.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

SMALL = {"iterations": 3, "steps": 3, "epochs": 1, "repeats": 1, "width": 4, "real_batch": 16}


def shrink() -> Callable[[], None]:
    """Smaller defaults of every method's hyper-parameters, and protocols of a few steps with the same names."""
    from datadistill.evaluate import protocol
    from datadistill.methods import BUILT_IN

    presets = ("quick", "quick_table")
    before = [(m, dict(m.__init__.__kwdefaults__ or {}), {p: m.__dict__[p] for p in presets if p in m.__dict__}) for m in BUILT_IN], dict(protocol.PROTOCOLS)
    for method in BUILT_IN:
        defaults = method.__init__.__kwdefaults__ or {}
        small = {name: value for name, value in SMALL.items() if name in defaults}
        defaults.update(small)
        method.quick, method.quick_table = {**method.quick, **small}, {**method.quick_table, **small}
    sizes = {"convnet": {"width": 4}, "resnet": {"width": 4, "blocks": (1, 1)}, "vgg": {"width": 4}}
    for name, whole in list(protocol.PROTOCOLS.items()):
        protocol.PROTOCOLS[name] = replace(whole, steps=3, full_steps=3, lrs=whole.lrs[:1], sizes=sizes)

    def undo() -> None:
        for method, defaults, own in before[0]:
            (method.__init__.__kwdefaults__ or {}).update(defaults)
            for preset in presets:
                delattr(method, preset)
                if preset in own:
                    setattr(method, preset, own[preset])
        protocol.PROTOCOLS.update(before[1])

    return undo


if __name__ == "__main__":
    shrink()
    from datadistill.cli import main

    main(sys.argv[1:])
