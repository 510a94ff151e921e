"""The synthetic set S, while it is being distilled and as the artifact that is kept."""

from .form import Choice, Start
from .set import Recipe, SyntheticSet

__all__ = ["Choice", "Recipe", "Start", "SyntheticSet"]
