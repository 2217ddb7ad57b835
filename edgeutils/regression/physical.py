"""Costs that cannot be negative, fitted to relative error."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import nnls

from edgeutils import EdgeError


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
    exact = 1 / np.sqrt(1 + (rounding / y) ** 2 / 12 / 0.02)
    for _ in range(10):
        found, _ = nnls(shares * weights[:, None], weights)
        # 1 % is about the repeatability of a good meter: below it all residuals count alike.
        weights = exact / np.sqrt(np.maximum(np.abs(shares @ found - 1), 0.01))
    return found / scale
