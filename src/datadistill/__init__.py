"""datadistill: a small data set that trains models nearly as well as the big one, and an honest word on whether it does.

    set = datadistill.distill("photos/", method="dm", ipc=10, out="photos-10")
    verdict = datadistill.evaluate(set, "photos/")

Importing costs nothing: torch and the rest come with the first name that needs them.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import distill, evaluate, load
    from .estimator import Distiller
    from .synthetic.artifact import Artifact

__version__ = "0.1.0"
__all__ = ["Artifact", "Distiller", "distill", "evaluate", "load"]

_HOME = {"distill": "api", "evaluate": "api", "load": "api", "Distiller": "estimator", "Artifact": "synthetic.artifact"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


class _Front(ModuleType):
    """Keeps `datadistill.evaluate` the verb when the room of that name is imported, which would bind its name here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Front
