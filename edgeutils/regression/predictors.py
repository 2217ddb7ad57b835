"""Predictors of energy, latency or power from what is known before measuring.

Every predictor is fitted with `fit(table, target)` on rows of one device and processor and asked
with `predict(table)`; both take DataFrames, the target is in its SI unit. Those with an idea of
their own error also have `interval(table)`, the 90 % predictive interval. Baselines: a line on the
multiply-accumulates, measured latency times a constant power, and the random forest of Tu et al.
(SEC 2023). Ours: a physical model whose terms all cost something, and a Gaussian process that
corrects it where data are dense.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike
from scipy.optimize import nnls
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from edgeutils import EdgeError
from edgeutils.networks.kernels import DTYPE_BYTES

#: Columns that energy is predicted from, and the paper's forests: kernel type -> settings, columns.
SETTINGS = yaml.safe_load(Path(__file__).with_name("settings.yml").read_text("utf-8"))
NETWORK_FEATURES = tuple(SETTINGS["network_features"])
KERNEL_FEATURES = tuple(SETTINGS["kernel_features"])
PAPER_FORESTS = SETTINGS["paper_forests"]

#: What a kernel costs in the physical model, beside starting it: arithmetic and moving data.
KERNEL_TERMS = ("macs", "params", "elements")

_Z90 = norm.ppf(0.95)


def design(table: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    """Pick feature columns as floats, making the derived ones.

    `dense_macs` is the sum of `conv_macs` and `pointwise_macs` (one price for both: large
    kernels occur in first layers only, too seldom to price apart); `elements` are the numbers
    read and written by a kernel. A column that is absent raises `EdgeError`.
    """
    derived: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "dense_macs": lambda t: t["conv_macs"] + t["pointwise_macs"],
        "elements": lambda t: (t["input_bytes"] + t["output_bytes"]) / t["dtype"].map(DTYPE_BYTES),
    }
    picked = []
    for name in columns:
        try:
            picked.append(table[name] if name in table else derived[name](table))
        except KeyError as error:
            raise EdgeError(
                f"a predictor needs the column {name} (lacking: {error}); kernels get theirs from "
                "networks.kernels.add_work, networks from networks.zoo.features"
            ) from None
    return np.column_stack([c.to_numpy(float, na_value=np.nan) for c in picked])


def _target(target: ArrayLike) -> np.ndarray:
    values = np.asarray(target, dtype=float)
    if not len(values) or not np.all(np.isfinite(values) & (values > 0)):
        raise EdgeError("a predictor's target must be positive in every row; drop the others")
    return values


def _is_quantised(table: pd.DataFrame) -> np.ndarray:
    """1 where the numbers are 8-bit integers, else 0 (also where the type is not known)."""
    if "dtype" not in table:
        return np.zeros(len(table))
    return table["dtype"].isin(["int8", "uint8"]).to_numpy(float)


class FlopsLine(RegressorMixin, BaseEstimator):
    """Ordinary least squares of the target on the multiply-accumulates: a + b x MACs."""

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit slope and intercept; where the MACs do not vary the line is flat."""
        line = LinearRegression().fit(design(table, ("macs",)), _target(target))
        self.slope_, self.intercept_ = float(line.coef_[0]), float(line.intercept_)
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Evaluate the line; it may go below zero."""
        return self.intercept_ + self.slope_ * design(table, ("macs",))[:, 0]


class LatencyTimesPower(RegressorMixin, BaseEstimator):
    """Measured latency times the mean power of the training rows; the target is an energy in J.

    Needs the latency of the very network it is asked about: a baseline for what a power meter adds.
    """

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Average energy over latency."""
        self.power_w_ = float(np.mean(_target(target) / design(table, ("latency_s",))[:, 0]))
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
        self.forest_.fit(self._design(table), _target(target))
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
        x, y = self._design(table), _target(target)
        self.costs_ = _costs(x, y, relative=self.relative)
        left_out = x @ self.costs_
        if self.group is not None and table[self.group].nunique() > 1:
            for train, out in LeaveOneGroupOut().split(x, groups=table[self.group]):
                left_out[out] = x[out] @ _costs(x[train], y[train], relative=self.relative)
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


def _costs(x: np.ndarray, y: np.ndarray, *, relative: bool) -> np.ndarray:
    """Non-negative costs: least absolute relative errors (re-weighted squares), or squares."""
    scale = np.where(x.max(axis=0) > 0, x.max(axis=0), 1.0)
    if not relative:
        return nnls(x / scale, y)[0] / scale
    shares, weights = x / scale / y[:, None], np.ones(len(y))
    for _ in range(10):
        costs, _ = nnls(shares * weights[:, None], weights)
        # 1 % is about the repeatability of a good meter: below it all residuals count alike.
        weights = 1 / np.sqrt(np.maximum(np.abs(shares @ costs - 1), 0.01))
    return costs / scale


@dataclass(eq=False)
class GaussianProcess(RegressorMixin, BaseEstimator):
    r"""Gaussian process on logs that corrects the physical model where data are dense.

    .. math:: \log E = \log E_{\mathrm{physical}}(x) + f(\log x) + \varepsilon

    with a Matern 3/2 covariance and one length scale per feature; far from all data f returns to
    zero and the physical model remains (Rasmussen and Williams 2006, sections 2.7 and 4.2).

    `features` are the columns of x: their logs are standardised, and columns that are missing or
    constant left out. `rounding` is the step to which the targets were rounded, in their own
    unit: part of the noise, and the greater part for the smallest targets.
    """

    features: tuple[str, ...] = KERNEL_FEATURES
    _: KW_ONLY
    rounding: float = 0.0

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit the physical model, then length scales and noise by the marginal likelihood."""
        y = _target(target)
        self.mean_ = PhysicalModel(KERNEL_TERMS, by_dtype=False).fit(table, y)
        x = design(table, self.features)
        varies = np.isfinite(x).all(axis=0) & (np.ptp(x, axis=0) > 0)
        self.columns_ = tuple(np.array(self.features)[varies])
        # Rounding alone causes a variance of step^2 / 12, in the log relative to the value.
        noise = 1e-8 + (self.rounding / y) ** 2 / 12
        # Bounds keep the search in a sensible room: 3 % to 70 % noise, scales that matter.
        scales = kernels.Matern(np.full(varies.sum(), 3.0), (0.2, 200), nu=1.5)
        spread = kernels.ConstantKernel(1.0, (1e-3, 1e3))
        white = kernels.WhiteKernel(1e-2, (1e-5, 0.5))
        process = GaussianProcessRegressor(spread * scales + white, alpha=noise)
        self.process_ = make_pipeline(FunctionTransformer(np.log1p), StandardScaler(), process)
        with warnings.catch_warnings():
            # A length scale at its bound only says that the feature does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.process_.fit(x[:, varies], np.log(y) - np.log(self.mean_.predict(table)))
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Median of the predictive distribution."""
        correction = self.process_.predict(design(table, self.columns_))
        return self.mean_.predict(table) * np.exp(correction)

    def interval(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high end of the 90 % predictive interval, noise included."""
        _, sd = self.process_.predict(design(table, self.columns_), return_std=True)
        value = self.predict(table)
        factor = np.exp(_Z90 * np.sqrt(sd**2 + (self.rounding / value) ** 2 / 12))
        return value / factor, value * factor
