"""A scikit-learn style estimator: `Distiller(method="dm", ipc=10).fit_resample(X, y)`."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_X_y

from . import api
from .synthetic.artifact import Artifact


class Distiller(BaseEstimator):
    """Distil (X, y) into a few labelled rows; like imbalanced-learn's samplers it changes the number of rows, so it is no
    transformer.

    method, ipc       as `datadistill.distill`             settings   the method's hyper-parameters, a dict or None
    random_state      None, an int or a RandomState        device     "auto", "cpu", "cuda", "mps"

    After fitting: `X_` (n, features), `y_` (n,) in the labels' own type, `artifact_`, `classes_`, `n_features_in_`.
    X is (n, features) numbers; labels may be of any type that scikit-learn takes for classification.
    """

    def __init__(self, method: str = "dm", ipc: int | str = 10, settings: dict[str, Any] | None = None, random_state: Any = None, device: str = "auto"):
        self.method = method
        self.ipc = ipc
        self.settings = settings
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any) -> Self:
        """Distil; the result is in `X_` and `y_`."""
        names = getattr(X, "columns", None)
        X, y = check_X_y(X, y, dtype=[np.float64, np.float32], estimator=self)
        check_classification_targets(y)
        self.n_features_in_ = X.shape[1]
        if names is not None and all(isinstance(n, str) for n in names):
            self.feature_names_in_ = np.asarray(names, dtype=object)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"Distiller needs samples of at least 2 classes, but the data contains only one class: {self.classes_[0]!r}")
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        self.artifact_: Artifact = api.distill((X, codes), self.method, ipc=self.ipc, seed=seed, device=self.device, val=0.0, test=0.0, **(self.settings or {}))
        natural = self.artifact_.modality.decode(self.artifact_.x).numpy()
        self.X_ = natural.astype(X.dtype)
        order = [int(name) for name in self.artifact_.spec.classes]
        self.y_ = self.classes_[np.asarray(order)[self.artifact_.y.numpy()]]
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """(X_, y_): the distilled rows and their labels."""
        self.fit(X, y)
        return self.X_, self.y_
