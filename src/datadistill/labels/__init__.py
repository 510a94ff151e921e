"""What the synthetic examples are labelled with: `targets(indices, epoch, view)` is all a student asks."""

from .base import Hard, Labels, Repeated, Soft, of

__all__ = ["Hard", "Labels", "Repeated", "Soft", "of"]
