"""Optional imports that name the pip line to type."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import UsageError


def need(module: str, extra: str) -> ModuleType:
    """The imported module, or one message saying which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"this needs the package {module!r}, which is not installed ({error})",
            fix=f"pip install 'datadistill[{extra}]'",
        ) from error
