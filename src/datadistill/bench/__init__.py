"""Where methods and the ruler meet: the arms of a verdict are made here."""

from .verdict import evaluate

__all__ = ["evaluate"]
