"""A table in scikit-learn's style: fit a model on a few distilled rows, and on as many random ones."""

import numpy as np
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datadistill import Distiller

X, y = load_wine(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)


def accuracy(X_small: np.ndarray, y_small: np.ndarray) -> float:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X_small, y_small).score(X_test, y_test)


for method, settings in (("random", {}), ("k-means", {"keep": "centroids", "embedding": "input"}), ("dm", {"iterations": 300, "net": "mlp"})):
    runs = [accuracy(*Distiller(method, ipc=2, settings=settings, random_state=seed).fit_resample(X_train, y_train)) for seed in range(3)]
    print(f"{method:>8}: 6 rows, accuracy {np.mean(runs):.3f} over {len(runs)} draws")
print(f"    full: {len(X_train)} rows, accuracy {accuracy(X_train, y_train):.3f}")
