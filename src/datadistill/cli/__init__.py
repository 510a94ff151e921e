"""The command line. `main` is the entry point; torch is not imported until a command needs it."""

from .main import main

__all__ = ["main"]
