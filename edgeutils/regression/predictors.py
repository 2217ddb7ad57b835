"""Predictors of energy, latency or power from what is known before measuring.

Every predictor is fitted with `fit(table, target)` on rows of one device and processor and asked
with `predict(table)`; both take DataFrames, the target is in its SI unit. Those with an idea of
their own error also have `interval(table)`, the 90 % predictive interval. Baselines: a line on the
multiply-accumulates, measured latency times a constant power, and the random forest of Tu et al.
(SEC 2023). Ours: a physical model whose terms all cost something, and a Gaussian process that
corrects it where data are dense.
"""

import warnings
from collections.abc import Callable
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import nnls
from scipy.stats import norm
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from edgeutils import EdgeError
from edgeutils.networks.kernels import DTYPE_BYTES

#: Columns of `networks.zoo.features` that a network's energy is predicted from.
NETWORK_FEATURES = (
    "pixels",
    "dense_macs",
    "depthwise_macs",
    "activations",
    "params",
    "layers",
    "hswish_elements",
    "se_elements",
)

#: What a kernel costs in the physical model, beside starting it: arithmetic and moving data.
KERNEL_TERMS = ("macs", "params", "elements")

#: What the Gaussian process of a kernel looks at; those that do not vary are left out.
KERNEL_FEATURES = ("hw", "cin", "cout", "kernel_size", "stride", "macs", "params", "elements")

#: Trees, depth and features per split of the paper's forests, and their features: the settings of
#: nn-Meter's TFLite CPU predictors, which Tu et al. (SEC 2023) take over.
_SHAPE = ("hw", "cin")
_CONV = ("hw", "cin", "cout", "kernel_size", "stride", "macs", "params")
_POOL = ("hw", "cin", "cout", "kernel_size", "stride")
PAPER_FORESTS: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    "conv-bn-relu": (320, 70, 6, _CONV),
    "dwconv-bn-relu": (240, 50, 6, _CONV),
    "fc": (370, 50, 2, ("cin", "cout", "macs", "params")),
    "maxpool": (210, 50, 5, _POOL),
    "avgpool": (370, 50, 5, _POOL),
    "global-avgpool": (370, 70, 2, _SHAPE),
    "concat": (690, 100, 5, ("hw", "cin1", "cin2", "cin3", "cin4")),
    "add": (570, 50, 3, ("hw", "cin1", "cin2")),
    "addrelu": (570, 50, 3, ("hw", "cin1", "cin2")),
    "hswish": (190, 50, 2, _SHAPE),
    "split": (190, 50, 2, _SHAPE),
    "se": (290, 20, 2, _SHAPE),
} | dict.fromkeys(("bn", "bnrelu", "relu", "channelshuffle"), (370, 50, 2, _SHAPE))

_Z90 = norm.ppf(0.95)


def design(table: pd.DataFrame, columns: tuple[str, ...]) -> np.ndarray:
    """Pick feature columns as floats, making the derived ones.

    `dense_macs` is the sum of `conv_macs` and `pointwise_macs` (one price for both: large
    kernels occur in first layers only, too seldom to price apart); `elements` are the numbers
    read and written by a kernel.

    Raises
    ------
    EdgeError
        A column is absent.
    """
    derived: dict[str, Callable[[pd.DataFrame], pd.Series]] = {
        "dense_macs": lambda t: t["conv_macs"] + t["pointwise_macs"],
        "elements": lambda t: (t["input_bytes"] + t["output_bytes"]) / t["dtype"].map(DTYPE_BYTES),
    }
    picked = []
    for name in columns:
        try:
            values = table[name] if name in table else derived[name](table)
        except KeyError as error:
            raise EdgeError(
                f"a predictor needs the column {name} (lacking: {error}); kernels get theirs from "
                "networks.kernels.add_work, networks from networks.zoo.features"
            ) from None
        picked.append(np.asarray(pd.to_numeric(values), dtype=float))
    return np.stack(picked, axis=1)


def _target(target: ArrayLike) -> np.ndarray:
    values = np.asarray(target, dtype=float)
    if not len(values) or not np.all(np.isfinite(values) & (values > 0)):
        raise EdgeError("a predictor's target must be positive in every row; drop the others")
    return values


class FlopsLine(RegressorMixin, BaseEstimator):
    """Ordinary least squares of the target on the multiply-accumulates: a + b x MACs."""

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit slope and intercept; where the MACs do not vary the line is flat."""
        macs, y = design(table, ("macs",))[:, 0], _target(target)
        varies = np.ptp(macs) > 0
        line = np.polyfit(macs, y, 1) if varies else np.array([0.0, y.mean()])
        self.slope_, self.intercept_ = line.tolist()
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


class PaperForest(RegressorMixin, BaseEstimator):
    """Random forest with the paper's settings for the kernel type of the rows, or for networks.

    Parameters
    ----------
    features
        Columns to use for rows without a kernel type (networks), which get the settings of
        convolutions.
    trees
        Number of trees; None: as many as the paper.
    seed
        Seed of the forest.
    """

    def __init__(
        self,
        features: tuple[str, ...] = NETWORK_FEATURES,
        *,
        trees: int | None = None,
        seed: int = 0,
    ):
        self.features = features
        self.trees = trees
        self.seed = seed

    def _design(self, table: pd.DataFrame) -> np.ndarray:
        if self.kernel_type_ is None:
            return np.column_stack([design(table, self.features), _is_quantised(table)])
        columns = PAPER_FORESTS[self.kernel_type_][3]
        # A pool has no cout and an add often names one input only: a forest takes the gap as 0.
        return np.nan_to_num(
            design(table.reindex(columns=[*table, *_absent(table, columns)]), columns)
        )

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit the forest; the rows must be of one kernel type, or all networks."""
        kinds = table["kernel_type"].dropna().unique() if "kernel_type" in table else []
        if len(kinds) > 1:
            raise EdgeError(
                f"the paper fits one forest per kernel type and these rows hold {', '.join(kinds)}"
                ": fit them one type at a time"
            )
        self.kernel_type_ = kinds[0] if len(kinds) else None
        trees, depth, per_split, _ = PAPER_FORESTS[self.kernel_type_ or "conv-bn-relu"]
        rows = self._design(table)
        self.forest_ = RandomForestRegressor(
            n_estimators=self.trees or trees,
            max_depth=depth,
            max_features=min(per_split, rows.shape[1]),
            random_state=self.seed,
        ).fit(rows, _target(target))
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Average the trees: never outside the range of the training targets."""
        return self.forest_.predict(self._design(table))


def _absent(table: pd.DataFrame, columns: tuple[str, ...]) -> list[str]:
    return [name for name in columns if name not in table]


def _is_quantised(table: pd.DataFrame) -> np.ndarray:
    """1 where the numbers are 8-bit integers, else 0 (also where the type is not known)."""
    if "dtype" not in table:
        return np.zeros(len(table))
    return table["dtype"].isin(["int8", "uint8"]).to_numpy(float)


class PhysicalModel(RegressorMixin, BaseEstimator):
    r"""Sum of costs that cannot be negative, fitted to relative error.

    .. math:: E = \sum_j c_j x_j, \quad c_j \ge 0, \quad
              \min \sum_i \left| \hat E_i / E_i - 1 \right|

    solved as non-negative least squares with weights renewed from the residuals. As no cost is
    negative the model extrapolates sanely, to larger networks and to families it has not seen.

    Parameters
    ----------
    terms
        Columns x_j; a constant is always added.
    by_dtype
        Separate costs for float and for 8-bit rows.
    relative
        Minimise relative errors as above; False: the squared errors in the unit of the target.
    group
        Column whose groups are left out in turn to learn the width of the 90 % interval from the
        errors on unseen groups; None: from the errors on the training rows themselves.
    """

    def __init__(
        self,
        terms: tuple[str, ...] = NETWORK_FEATURES,
        *,
        by_dtype: bool = True,
        relative: bool = True,
        group: str | None = None,
    ):
        self.terms = terms
        self.by_dtype = by_dtype
        self.relative = relative
        self.group = group

    def _design(self, table: pd.DataFrame) -> np.ndarray:
        x = np.column_stack([np.ones(len(table)), design(table, self.terms)])
        if not self.by_dtype:
            return x
        quantised = _is_quantised(table)[:, None]
        return np.hstack([x * (1 - quantised), x * quantised])

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit the costs, then the interval's width."""
        x, y = self._design(table), _target(target)
        solve = _relative_nnls if self.relative else _absolute_nnls
        self.costs_ = solve(x, y)
        groups = None if self.group is None else table[self.group].to_numpy()
        left_out = x @ self.costs_
        for name in [] if groups is None else pd.unique(groups):
            out = groups == name
            if not out.all():
                left_out[out] = x[out] @ solve(x[~out], y[~out])
        error = np.log(y) - np.log(np.maximum(left_out, y.min() * 1e-3))
        self.log_error_ = float(_conformal_quantile(np.abs(error), 0.9))
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Sum the costs."""
        return self._design(table) @ self.costs_

    def interval(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high end of the 90 % interval: the same factor for every row."""
        value, factor = self.predict(table), np.exp(self.log_error_)
        return value / factor, value * factor


def _relative_nnls(x: np.ndarray, y: np.ndarray, rounds: int = 10) -> np.ndarray:
    """Non-negative costs with the least sum of absolute relative errors (re-weighted squares)."""
    scale = np.where(x.max(axis=0) > 0, x.max(axis=0), 1.0)
    relative = x / scale / y[:, None]
    weights = np.ones(len(y))
    for _ in range(rounds):
        costs, _ = nnls(relative * weights[:, None], weights)
        # 1 % is about the repeatability of a good meter: below it all residuals count alike.
        weights = 1 / np.sqrt(np.maximum(np.abs(relative @ costs - 1), 0.01))
    return costs / scale


def _absolute_nnls(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Non-negative costs with the least sum of squared errors."""
    scale = np.where(x.max(axis=0) > 0, x.max(axis=0), 1.0)
    return nnls(x / scale, y)[0] / scale


def _conformal_quantile(errors: np.ndarray, level: float) -> float:
    """Order statistic that a new exchangeable error stays below with probability `level`."""
    rank = int(np.ceil((len(errors) + 1) * level))
    return np.sort(errors)[min(rank, len(errors)) - 1]


class GaussianProcess(RegressorMixin, BaseEstimator):
    r"""Gaussian process on logs that corrects the physical model where data are dense.

    .. math:: \log E = \log E_{\mathrm{physical}}(x) + f(\log x) + \varepsilon

    with a Matern 3/2 covariance and one length scale per feature; far from all data f returns to
    zero and the physical model remains (Rasmussen and Williams 2006, sections 2.7 and 4.2).

    Parameters
    ----------
    features
        Columns of x; the logs are standardised, columns that are missing or constant left out.
    terms
        Terms of the physical model.
    rounding_j
        Step to which the targets were rounded, in their own unit: part of the noise, and the
        greater part for the smallest targets.
    """

    def __init__(
        self,
        features: tuple[str, ...] = KERNEL_FEATURES,
        *,
        terms: tuple[str, ...] = KERNEL_TERMS,
        rounding_j: float = 0.0,
    ):
        self.features = features
        self.terms = terms
        self.rounding_j = rounding_j

    def _rounding(self, value: np.ndarray) -> np.ndarray:
        """Variance of the log that rounding alone causes: step^2 / 12, relative to the value."""
        return (self.rounding_j / value) ** 2 / 12

    def _standardised(self, table: pd.DataFrame) -> np.ndarray:
        return (np.log1p(design(table, self.columns_)) - self.centre_) / self.spread_

    def fit(self, table: pd.DataFrame, target: ArrayLike) -> Self:
        """Fit the physical model, then length scales and noise by the marginal likelihood."""
        y = _target(target)
        self.mean_ = PhysicalModel(self.terms, by_dtype=False).fit(table, y)
        logs = np.log1p(design(table, self.features))
        varies = np.isfinite(logs).all(axis=0) & (np.ptp(logs, axis=0) > 0)
        self.columns_ = tuple(np.array(self.features)[varies])
        self.centre_, self.spread_ = logs[:, varies].mean(axis=0), logs[:, varies].std(axis=0)
        # Bounds keep the search in a sensible room: 3 % to 70 % noise, scales that matter.
        covariance = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(
            np.full(varies.sum(), 3.0), (0.2, 200), nu=1.5
        ) + WhiteKernel(1e-2, (1e-5, 0.5))
        self.process_ = GaussianProcessRegressor(covariance, alpha=1e-8 + self._rounding(y))
        residual = np.log(y) - np.log(self.mean_.predict(table))
        with warnings.catch_warnings():
            # A length scale at its bound only says that the feature does not matter.
            warnings.simplefilter("ignore", ConvergenceWarning)
            self.process_.fit(self._standardised(table), residual)
        return self

    def predict(self, table: pd.DataFrame) -> np.ndarray:
        """Median of the predictive distribution."""
        correction = self.process_.predict(self._standardised(table))
        return self.mean_.predict(table) * np.exp(correction)

    def interval(self, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high end of the 90 % predictive interval, noise included."""
        _, sd = self.process_.predict(self._standardised(table), return_std=True)
        value = self.predict(table)
        factor = np.exp(_Z90 * np.sqrt(sd**2 + self._rounding(value)))
        return value / factor, value * factor
