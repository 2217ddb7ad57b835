"""Predictors of energy, latency or power from what is known before measuring.

Every predictor is fitted with `fit(table, target)` on rows of one device and processor and asked
with `predict(table)`; both take DataFrames, the target is in its SI unit. Those with an idea of
their own error also have `interval(table)`, the 90 % predictive interval. Baselines: a line on the
multiply-accumulates, measured latency times a constant power, and the random forest of Tu et al.
(SEC 2023). Ours: a physical model whose terms all cost something; what corrects it where data are
dense, for kernels, is in `edgeutils.regression.kernel_predictor`.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut

from edgeutils import EdgeError
from edgeutils.regression.features import SETTINGS, design
from edgeutils.regression.physical import costs, positive

#: Columns that energy is predicted from, and the paper's forests: kernel type -> settings, columns.
NETWORK_FEATURES = tuple(SETTINGS["network_features"])
PAPER_FORESTS = SETTINGS["paper_forests"]

#: What a kernel costs in the physical model, beside starting it: arithmetic and moving data.
KERNEL_TERMS = ("macs", "params", "elements")


def _is_quantised(table: pd.DataFrame) -> np.ndarray:
    """1 where the numbers are 8-bit integers, else 0 (also where the type is not known)."""
    if "dtype" not in table:
        return np.zeros(len(table))
    return table["dtype"].isin(["int8", "uint8"]).to_numpy(float)


class FlopsLine(RegressorMixin, BaseEstimator):
    """Ordinary least squares of the target on the multiply-accumulates: a + b x MACs."""

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit slope and intercept; where the MACs do not vary the line is flat."""
        line = LinearRegression().fit(design(table, ("macs",)), positive(target))
        self.slope_, self.intercept_ = float(line.coef_[0]), float(line.intercept_)
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Evaluate the line; it may go below zero."""
        return self.intercept_ + self.slope_ * design(table, ("macs",))[:, 0]


class FlopsAndBytes(RegressorMixin, BaseEstimator):
    """Ordinary least squares on multiply-accumulates and on the bytes moved."""

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit two slopes and an intercept."""
        self.line_ = LinearRegression().fit(self._design(table), positive(target))
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Evaluate the plane; it may go below zero."""
        return self.line_.predict(self._design(table))

    @staticmethod
    def _design(table: pd.DataFrame) -> np.ndarray:
        columns = design(table, ("macs", "input_bytes", "output_bytes", "weight_bytes"))
        return np.column_stack([columns[:, 0], columns[:, 1:].sum(axis=1)])


@dataclass(eq=False)
class PerType(RegressorMixin, BaseEstimator):
    """Fits a model for each kernel type by itself."""

    model: BaseEstimator

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit a clone of the model to the rows of each type."""
        y, kinds = positive(target), table["kernel_type"].to_numpy()
        self.models_ = {
            kind: clone(self.model).fit(table[kinds == kind], y[kinds == kind])
            for kind in pd.unique(kinds)
        }
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Ask each row's own model; a type that was not trained on raises `EdgeError`."""
        found, kinds = np.empty(len(table)), table["kernel_type"].to_numpy()
        for kind in pd.unique(kinds):
            if kind not in self.models_:
                raise EdgeError(f"no {kind} kernel was in the training; it had {[*self.models_]}")
            found[kinds == kind] = self.models_[kind].predict(table[kinds == kind])
        return found


class LatencyTimesPower(RegressorMixin, BaseEstimator):
    """Measured latency times the mean power of the training rows; the target is an energy in J.

    Needs the latency of the very network it is asked about: a baseline for what a power meter adds.
    """

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Average energy over latency."""
        self.power_w_ = float(np.mean(positive(target) / design(table, ("latency_s",))[:, 0]))
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Multiply by the rows' latencies."""
        return self.power_w_ * design(table, ("latency_s",))[:, 0]


@dataclass(eq=False)
class PaperForest(RegressorMixin, BaseEstimator):
    """Random forest with the paper's settings for the kernel type of the rows.

    Rows without a kernel type (networks) get the settings of convolutions and `NETWORK_FEATURES`.
    `trees` None: as many as the paper.
    """

    _: KW_ONLY
    trees: int | None = None
    seed: int = 0

    def _design(self, table: pd.DataFrame) -> np.ndarray:
        if self.kernel_type_ is None:
            return np.column_stack([design(table, NETWORK_FEATURES), _is_quantised(table)])
        # A pool has no cout and an add often names one input only: a forest takes the gap as 0.
        columns = PAPER_FORESTS[self.kernel_type_]["columns"]
        return np.nan_to_num(table.reindex(columns=columns).to_numpy(float, na_value=np.nan))

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit the forest; the rows must be of one kernel type, or all networks."""
        kinds = table["kernel_type"].dropna().unique() if "kernel_type" in table else []
        if len(kinds) > 1:
            raise EdgeError(
                f"the paper fits one forest per kernel type and these rows hold {', '.join(kinds)}"
                ": fit them one type at a time"
            )
        self.kernel_type_ = kinds[0] if len(kinds) else None
        settings = PAPER_FORESTS[self.kernel_type_ or "conv-bn-relu"]["settings"]
        settings = settings | {"n_estimators": self.trees or settings["n_estimators"]}
        self.forest_ = RandomForestRegressor(**settings, random_state=self.seed)
        self.forest_.fit(self._design(table), positive(target))
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Average the trees: never outside the range of the training targets."""
        return self.forest_.predict(self._design(table))


@dataclass(eq=False)
class PhysicalModel(RegressorMixin, BaseEstimator):
    r"""Sum of costs that cannot be negative, fitted to relative error.

    .. math:: E = \sum_j c_j x_j, \quad c_j \ge 0, \quad
              \min \sum_i \left| \hat E_i / E_i - 1 \right|

    solved as non-negative least squares with weights renewed from the residuals. As no cost is
    negative the model extrapolates sanely, to larger networks and to families it has not seen.

    `terms` are the columns x_j (a constant is always added), with separate costs for float and
    8-bit rows if `by_dtype`. `relative` False: least squared errors in the unit of the target.
    The width of the 90 % interval is learned from the errors on the values of the column `group`,
    left out in turn; None: from the errors on the training rows themselves.
    """

    terms: tuple[str, ...] = NETWORK_FEATURES
    _: KW_ONLY
    by_dtype: bool = True
    relative: bool = True
    group: str | None = None

    def _design(self, table: pd.DataFrame) -> np.ndarray:
        x = np.column_stack([np.ones(len(table)), design(table, self.terms)])
        if not self.by_dtype:
            return x
        quantised = _is_quantised(table)[:, None]
        return np.hstack([x * (1 - quantised), x * quantised])

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit the costs, then the interval's width."""
        x, y = self._design(table), positive(target)
        self.costs_ = costs(x, y, relative=self.relative)
        left_out = x @ self.costs_
        if self.group is not None and table[self.group].nunique() > 1:
            for train, out in LeaveOneGroupOut().split(x, groups=table[self.group]):
                left_out[out] = x[out] @ costs(x[train], y[train], relative=self.relative)
        error = np.abs(np.log(y) - np.log(np.maximum(left_out, y.min() * 1e-3)))
        # The order statistic that a new exchangeable error stays below in nine of ten cases.
        rank = min(math.ceil(0.9 * (len(y) + 1)), len(y))
        self.log_error_ = float(np.sort(error)[rank - 1])
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Sum the costs."""
        return self._design(table) @ self.costs_

    def interval(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high end of the 90 % interval: the same factor for every row."""
        value, factor = self.predict(table), np.exp(self.log_error_)
        return value / factor, value * factor
