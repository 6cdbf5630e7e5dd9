"""scikit-learn's estimators over :func:`dnewton.fit`: small nets of dense layers for tables, in pipelines and searches.

They follow https://scikit-learn.org/stable/developers/develop.html. A fitted one pickles: its weights travel as the
bytes of a safetensors file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, column_or_1d, validate_data

from dnewton.api import nets
from dnewton.api.fit import fit
from dnewton.api.model import Model
from dnewton.errors import UserError

LARGEST_SEED = 2**31 - 1


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What both have in common: the parameters, and a run of :func:`dnewton.fit`."""

    def __init__(
        self,
        hidden_layers: Sequence[int] = (32, 32),
        activation: str = "tanh",
        C: float | str = 1.0,
        max_iter: int = 200,
        tol: float = 1e-5,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        scale: bool = True,
        warm_start: bool = False,
        random_state: Any = None,
        dtype: str = "float64",
        solver: Mapping[str, Any] | None = None,
        parallel: Mapping[str, Any] | None = None,
    ) -> None:
        self.hidden_layers = hidden_layers
        self.activation = activation
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.scale = scale
        self.warm_start = warm_start
        self.random_state = random_state
        self.dtype = dtype
        self.solver = solver
        self.parallel = parallel

    def _trained(self, x: Any, y: Any, outputs: int, loss: str, weights: Any) -> None:
        """Fit `model_`. Raises ValueError for parameters and data that are not fit to be used."""
        hidden = np.atleast_1d(self.hidden_layers).tolist()
        seed = int(check_random_state(self.random_state).randint(LARGEST_SEED))
        real = loss == "squared"
        data: dict[str, Any] = {"scale": "standardize" if self.scale else "none"}
        if real and self.scale:
            data["scale_targets"] = "standardize"
        solver: dict[str, Any] = {
            "C": self.C,
            "max_iterations": self.max_iter,
            "tolerance": self.tol,
            "seed": seed,
            **(self.solver or {}),
        }
        if self.patience is not None:
            solver["patience"] = self.patience
        chosen = None
        if self.patience is not None:
            x, y, weights, chosen = self._held_out(x, y, weights, seed)
        before = getattr(self, "model_", None) if self.warm_start else None
        try:
            net = nets.net([x.shape[1]], [*(nets.dense(n, self.activation) for n in hidden), nets.dense(outputs)], loss)
            self.model_: Model = fit(
                net,
                x,
                y,
                validation=chosen,
                sample_weight=weights,
                init=before if before is not None and before.net == net else None,
                data=data,
                solver=solver,
                parallel={"dtype": self.dtype, **(self.parallel or {})},
            )
        except UserError as error:
            raise ValueError(str(error)) from None
        self.n_iter_ = max(1, len(self.model_.history["iteration"]) - 1)
        self.loss_ = float(self.model_.history["loss"][-1])

    def _held_out(self, x: Any, y: Any, weights: Any, seed: int) -> tuple[Any, Any, Any, tuple[Any, Any]]:
        """The samples without those by which `patience` judges, and those."""
        if len(x) < 2 or not 0 < self.validation_fraction < 1:
            raise ValueError(
                f"patience needs two samples or more ({len(x)} given) and validation_fraction between 0 and 1"
            )
        order = np.random.default_rng(seed).permutation(len(x))
        held = min(max(1, round(self.validation_fraction * len(x))), len(x) - 1)
        some, rest = order[:held], np.sort(order[held:])
        if self._held_classes(y, rest) < self._held_classes(y, order):
            raise ValueError("validation_fraction leaves a class without samples; use more samples or no patience")
        return x[rest], y[rest], None if weights is None else weights[rest], (x[some], y[some])

    def _held_classes(self, y: Any, rows: Any) -> int:
        return 0

    def _weights(self, x: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
        """Samples, targets and weights without samples of weight 0, which change nothing but the paths of rounding."""
        if weights is None:
            return x, y, None
        weights = _check_sample_weight(weights, x, dtype=np.float64, ensure_non_negative=True)
        used = weights > 0
        if not used.any():
            raise ValueError("sample_weight is zero for all samples; at least one must count")
        return x[used], y[used], weights[used]

    def _checked(self, x: Any) -> Any:
        check_is_fitted(self, "model_")
        return validate_data(self, x, dtype=[np.float64, np.float32], reset=False)


class DNewtonRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A net for one or more real targets, trained by the distributed Newton method.

    `hidden_layers`: units of each hidden layer; `activation`: as in the YAML file; `C`: of the regulariser
    ‖θ‖²/(2 C l), a number, infinity for none, or "auto" (by the evidence); `max_iter`, `tol`: the run ends after so
    many iterations, or where the gradient is `tol` times the first; `patience`: it ends after so many iterations
    without a better error on a `validation_fraction` of the samples, and keeps the best weights; `scale`: standardise
    features and targets; `warm_start`: begin at the weights of the last fit; `solver`, `parallel`: further entries of
    these sections. Fitted: `model_` (a :class:`dnewton.Model`), `n_iter_`, `loss_`, `n_features_in_`.
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> DNewtonRegressor:
        """Train on X (N, features) and y (N,) or (N, targets). Raises ValueError. Collective over the job."""
        x, y = validate_data(
            self, X, y, dtype=[np.float64, np.float32], multi_output=True, y_numeric=True, ensure_min_samples=1
        )
        x, y, weights = self._weights(x, np.asarray(y, dtype=np.float64), sample_weight)
        self._trained(x, y, 1 if y.ndim == 1 else y.shape[1], "squared", weights)
        self._flat = y.ndim == 1
        return self

    def predict(self, X: Any) -> Any:
        """Values (N,) or (N, targets). Collective over the job."""
        x = self._checked(X)
        found = self.model_.predict(x)
        return found if self._flat or found.ndim == 2 else found[:, None]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class DNewtonClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A net for two or more classes, trained by the distributed Newton method.

    The parameters are those of :class:`DNewtonRegressor`, and `class_weight`: "balanced" or a weight for each label.
    Fitted: `classes_`, besides what the regressor has.
    """

    def __init__(
        self,
        hidden_layers: Sequence[int] = (32,),
        activation: str = "tanh",
        C: float = 1.0,
        class_weight: Any = None,
        max_iter: int = 50,
        tol: float = 1e-3,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        scale: bool = True,
        warm_start: bool = False,
        random_state: Any = None,
        dtype: str = "float64",
        solver: Mapping[str, Any] | None = None,
        parallel: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            hidden_layers,
            activation,
            C,
            max_iter,
            tol,
            patience,
            validation_fraction,
            scale,
            warm_start,
            random_state,
            dtype,
            solver,
            parallel,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> DNewtonClassifier:
        """Train on X (N, features) and labels y (N,). Raises ValueError. Collective over the job."""
        x, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        if self.class_weight is not None:
            balance = compute_sample_weight(self.class_weight, y)
            sample_weight = balance if sample_weight is None else balance * np.asarray(sample_weight)
        x, y, weights = self._weights(x, y, sample_weight)
        classes, places = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y has one class only ({classes[0]!r}); a classifier needs two classes or more")
        if not (self.warm_start and np.array_equal(classes, getattr(self, "classes_", classes))):
            self.__dict__.pop("model_", None)
        self.classes_ = classes
        two = len(classes) == 2
        self._trained(x, places, 1 if two else len(classes), "logistic" if two else "cross_entropy", weights)
        return self

    def _held_classes(self, y: Any, rows: Any) -> int:
        return len(np.unique(y[rows]))

    def predict(self, X: Any) -> Any:
        """Labels (N,). Collective over the job."""
        x = self._checked(X)
        return self.classes_[np.asarray(self.model_.predict(x))]

    def predict_proba(self, X: Any) -> Any:
        """The probability of every class (N, classes), in the order of `classes_`. Collective over the job."""
        x = self._checked(X)
        return self.model_.predict_proba(x)
