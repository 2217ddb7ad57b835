"""Costs that cannot be negative, fitted to relative error."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from edgeutils import EdgeError

# Variance of the log by which a price list misses anyway; rounding beyond it costs weight.
_MISSED = 0.02
# About the repeatability of a good meter: below it all relative residuals count alike.
_REPEATABLE = 0.01


def positive(target: ArrayLike) -> np.ndarray:
    """Targets as floats; one that is not positive raises `EdgeError`."""
    values = np.asarray(target, dtype=float)
    if not len(values) or not np.all(np.isfinite(values) & (values > 0)):
        raise EdgeError("a predictor's target must be positive in every row; drop the others")
    return values


def costs(
    x: np.ndarray, y: np.ndarray, *, relative: bool = True, rounding: float = 0.0
) -> np.ndarray:
    """Non-negative costs of the columns of x (rows, terms), in the unit of y per term.

    Least absolute relative errors, by squares that are weighted anew, or (`relative` False) least
    squares. Rows that `rounding` to a step makes inexact count less.
    """
    scale = np.where(x.max(axis=0) > 0, x.max(axis=0), 1.0)
    if not relative:
        return nnls(x / scale, y)[0] / scale
    shares, weights = x / scale / y[:, None], np.ones(len(y))
    exact = 1 / np.sqrt(1 + (rounding / y) ** 2 / 12 / _MISSED)
    for _ in range(10):
        found, _ = nnls(shares * weights[:, None], weights)
        weights = exact / np.sqrt(np.maximum(np.abs(shares @ found - 1), _REPEATABLE))
    return found / scale


def rounding_step(values: ArrayLike) -> float:
    """Find the power of ten that all values are multiples of; 0 if it does not matter.

    >>> rounding_step([1.2e-5, 3.4e-5]), rounding_step([0.1234567, 0.7654321])
    (1e-06, 0.0)
    """
    values = np.asarray(values, float)
    for exponent in range(-1, -13, -1):
        step = 10.0**exponent
        multiple = values / step
        if np.all(np.abs(multiple - np.round(multiple)) < 1e-6 * np.maximum(multiple, 1)):
            return step if multiple.min() < 1000 else 0.0
    return 0.0


def rounding_sd(step: float, value: np.ndarray) -> np.ndarray:
    """Give the standard deviation of the log that rounding causes: variance step^2 / 12."""
    return step / value / np.sqrt(12)
