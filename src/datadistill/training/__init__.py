"""Training of students and teachers."""

from .fit import Examples, Fitted, Schedule, accuracy, fit, predict

__all__ = ["Examples", "Fitted", "Schedule", "accuracy", "fit", "predict"]
