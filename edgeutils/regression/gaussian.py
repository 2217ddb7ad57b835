r"""Gaussian process regression with noise that differs from row to row.

scikit-learn's process has one level of noise and one covariance for all rows. Measured energies
need more: small values are noisier and rounded, single rows are gross errors, and kernel types
with few rows should borrow from the others. So the likelihood is written out here (Rasmussen and
Williams 2006, chapters 2, 4 and 5):

.. math:: y = f(x) + \varepsilon, \quad
          \operatorname{cov} f(x), f(x') = \sum_c v_c\, k_c(x, x'), \quad
          \operatorname{var} \varepsilon_i = s_i + \sum_j n_j V_{ij}

with covariances k_c of Matern 3/2 or linear form that may hold within a group of rows only, a
known part s of the noise, and basis functions V whose coefficients n are learned with the rest.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky, lapack, solve_triangular
from scipy.optimize import minimize

_SQRT3 = np.sqrt(3)
# Rows and points whose covariances fit into a processor's cache.
_CHUNK, _BLOCK = 256, 128
# Student's t with 4 degrees of freedom has tails as measured energies do (Gelman et al. 2013, 17).
_DEGREES = 4
# Precision of the prior on the logs of the parameters: a factor of 6 away costs half a nat.
_PRIOR = 0.3
_STEPS, _FEW_STEPS = 150, 12


@dataclass(frozen=True)
class Covariance:
    """One term: Matern 3/2 with a length scale per column, or linear without `columns`' scales.

    `columns` are positions in x. `within` True: zero between rows of different kinds. `variance`
    is where the search starts, relative to the variance of y; `length` likewise, in standard
    deviations of a column.
    """

    columns: tuple[int, ...]
    linear: bool = False
    within: bool = False
    variance: float = 1.0
    length: float = 3.0

    @property
    def size(self) -> int:
        """Number of parameters: logs of the variance and of the length scales."""
        return 1 if self.linear else 1 + len(self.columns)


@dataclass(frozen=True)
class Process:
    """A conditioned Gaussian process as plain arrays; `fit` makes one.

    `points` (n, d) and their `kinds` (n,), `weights` (n,) and the lower triangle `factor` (n, n)
    give the posterior: mean k @ weights, variance prior - ||factor @ k||^2. `noise` are the
    coefficients of V.
    """

    terms: tuple[Covariance, ...]
    parameters: np.ndarray
    noise: np.ndarray
    points: np.ndarray
    kinds: np.ndarray
    weights: np.ndarray
    factor: np.ndarray

    def predict(
        self, x: np.ndarray, kinds: np.ndarray, basis: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of new observations, noise (basis @ noise) included."""
        mean, variance = np.empty(len(x)), np.empty(len(x))
        for start in range(0, len(x), _CHUNK):
            part = slice(start, start + _CHUNK)
            k, prior = self.covariance(x[part], kinds[part])
            mean[part] = k @ self.weights
            variance[part] = prior - self._explained(k)
        return mean, np.sqrt(np.maximum(variance, 0) + basis @ self.noise)

    def _explained(self, k: np.ndarray) -> np.ndarray:
        total = np.zeros(len(k))
        for start in range(0, len(self.factor), _BLOCK):  # `factor` is 0 above its diagonal
            end = start + _BLOCK
            total += np.square(k[:, :end] @ self.factor[start:end, :end].T).sum(axis=1)
        return total

    def covariance(self, x: np.ndarray, kinds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Prior covariance of x with the points (rows, n), and prior variance of x (rows,)."""
        k, prior = np.zeros((len(x), len(self.points))), np.zeros(len(x))
        for term, values in _split(self.terms, self.parameters):
            k += _term(term, values, x, kinds, self.points, self.kinds)[0]
            length = np.square(x[:, term.columns]).sum(axis=1) if term.linear else 1.0
            prior += values[0] * length
        return k, prior


def fit(  # noqa: PLR0913, PLR0917  the parts of a likelihood
    terms: tuple[Covariance, ...],
    x: np.ndarray,
    y: np.ndarray,
    basis: np.ndarray,
    known: np.ndarray,
    kinds: np.ndarray | None = None,
    *,
    start: np.ndarray | None = None,
    robust: bool = True,
) -> "Fitted":
    """Maximise the posterior of the parameters, then once more with gross errors weighted down.

    Parameters
    ----------
    terms
        The covariance, as a sum.
    x, y
        Standardised features (n, d) and centred targets (n,).
    basis, known
        Basis of the noise variance (n, j) and its known part (n,), in the unit of y squared.
    kinds
        Group of each row (n,) for terms that hold `within` groups.
    start
        Parameters of a fit to much the same rows: a few steps from there do.
    robust
        Whether rows that are far from what the others say are weighted down.
    """
    kinds = np.zeros(len(y), int) if kinds is None else kinds
    steps = _STEPS if start is None else _FEW_STEPS
    problem = _Problem(terms, x, y, basis, known, kinds)
    best = problem.solve(problem.start if start is None else start, steps)
    if not robust:
        return Fitted(problem, best)
    # Rows far from what their neighbours say get the variance that Student's t would give them.
    rough = Fitted(problem, best)
    mean, sd = rough.left_out(np.arange(len(y)))
    z = (y - mean) / sd
    share = np.maximum((_DEGREES + z**2) / (_DEGREES + 1), 1) - 1
    excess = share * (known + basis @ rough.process.noise)
    tolerant = _Problem(terms, x, y, basis, known + excess, kinds)
    return Fitted(tolerant, tolerant.solve(best, steps), excess)


def _split(
    terms: tuple[Covariance, ...], parameters: np.ndarray
) -> Iterator[tuple[Covariance, np.ndarray]]:
    start = 0
    for term in terms:
        yield term, np.exp(parameters[start : start + term.size])
        start += term.size


def _term(  # noqa: PLR0913, PLR0917
    term: Covariance,
    values: np.ndarray,
    xa: np.ndarray,
    kinds_a: np.ndarray,
    xb: np.ndarray,
    kinds_b: np.ndarray,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Covariance matrix of one term, and the scaled distances, times sqrt(3), behind it."""
    a, b = xa[:, term.columns], xb[:, term.columns]
    distance = None
    if term.linear:
        k = values[0] * (a @ b.T)
    else:
        a, b = a * (_SQRT3 / values[1:]), b * (_SQRT3 / values[1:])
        distance = -2 * a @ b.T
        distance += np.square(a).sum(1)[:, None]
        distance += np.square(b).sum(1)
        np.sqrt(np.maximum(distance, 0, out=distance), out=distance)
        k = np.exp(np.log(values[0]) - distance)
        k *= distance + 1
    if term.within:
        k *= kinds_a[:, None] == kinds_b
    return k, distance


def _inverse(lower: np.ndarray) -> np.ndarray:
    """Inverse of a matrix from its lower Cholesky factor, in a third of a solve's work."""
    inverse, _ = lapack.dpotri(lower, lower=1)
    inverse = np.tril(inverse)
    return inverse + np.tril(inverse, -1).T


@dataclass(frozen=True)
class _Problem:
    """Negative log marginal likelihood of logs of all parameters, with its gradient."""

    terms: tuple[Covariance, ...]
    x: np.ndarray
    y: np.ndarray
    basis: np.ndarray
    known: np.ndarray
    kinds: np.ndarray

    @cached_property
    def start(self) -> np.ndarray:
        spread = max(float(np.var(self.y)), 1e-4)
        parts = [
            [np.log(t.variance * spread), *[np.log(t.length)] * (t.size - 1)] for t in self.terms
        ]
        noise = [np.log(1e-2)] + [np.log(3e-3)] * (self.basis.shape[1] - 1)
        return np.concatenate([*parts, noise])

    @property
    def _bounds(self) -> np.ndarray:
        spread = max(float(np.var(self.y)), 1e-4)
        variance, length = np.log(np.array([1e-4, 1e3]) * spread), np.log([0.1, 100.0])
        parts = [np.vstack([variance, *[length] * (t.size - 1)]) for t in self.terms]
        # Noise from 0.1 % (better than any meter) to a factor of e.
        return np.vstack([*parts, *[np.log([1e-6, 1.0])] * self.basis.shape[1]])

    def solve(self, start: np.ndarray, steps: int) -> np.ndarray:
        bounds = self._bounds
        how = {"jac": True, "method": "L-BFGS-B", "bounds": bounds, "options": {"maxiter": steps}}
        return minimize(self._loss, np.clip(start, *bounds.T), **how).x

    def matrix(self, parameters: np.ndarray) -> tuple[np.ndarray, list, np.ndarray]:
        """Covariance of the observations, its terms, and the coefficients of the noise."""
        noise = np.exp(parameters[-self.basis.shape[1] :])
        parts = [
            (term, values, *_term(term, values, self.x, self.kinds, self.x, self.kinds))
            for term, values in _split(self.terms, parameters)
        ]
        total = np.sum([part[2] for part in parts], axis=0)
        total[np.diag_indices_from(total)] += self.known + self.basis @ noise + 1e-9
        return total, parts, noise

    def _loss(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        total, parts, noise = self.matrix(parameters)
        try:
            lower = cholesky(total, lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            return 1e10, np.zeros_like(parameters)
        inverse = _inverse(lower)
        weights = inverse @ self.y
        loss = 0.5 * self.y @ weights + np.log(np.diag(lower)).sum()
        inverse -= np.outer(weights, weights)
        outer = inverse
        gradient = []
        for term, values, k, distance in parts:
            gradient.append([0.5 * np.vdot(outer, k)])
            if distance is not None:
                # Sum over pairs of squared differences, one column at a time, without a cube.
                pull = 3 * outer * k / (distance + 1)
                a = self.x[:, term.columns] / values[1:]
                gradient.append(pull.sum(1) @ a**2 - np.einsum("id,id->d", a, pull @ a))
        gradient.append(0.5 * (np.diag(outer) @ self.basis) * noise)
        # A weak prior keeps parameters that few rows say nothing about near where they began.
        away = parameters - self.start
        return float(loss) + 0.5 * _PRIOR * away @ away, np.concatenate(gradient) + _PRIOR * away


@dataclass(frozen=True)
class Fitted:
    """Parameters at their best, with the rows that they were learned from."""

    problem: _Problem
    parameters: np.ndarray
    excess: np.ndarray | float = 0.0

    @cached_property
    def _lower(self) -> np.ndarray:
        return cholesky(self.problem.matrix(self.parameters)[0], lower=True)

    @cached_property
    def process(self) -> Process:
        """The process, conditioned on all rows."""
        p = self.problem
        weights = cho_solve((self._lower, True), p.y)
        factor = solve_triangular(self._lower, np.eye(len(p.y)), lower=True)
        # What the rows could not tell, as its column was 0 for all, adds no noise elsewhere either.
        noise = np.exp(self.parameters[-p.basis.shape[1] :]) * p.basis.any(axis=0)
        kernel = self.parameters[: -p.basis.shape[1]]
        return Process(p.terms, kernel, noise, p.x, p.kinds, weights, factor)

    def left_out(self, folds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predict each row from the rows of other folds (n,): mean and standard deviation.

        In closed form, with the parameters of all rows: a block of the inverse matrix has all
        that is needed (Rasmussen and Williams 2006, section 5.4.2, for folds of one row). The
        variance that weighs gross errors down is not in the standard deviation.
        """
        y, inverse = self.problem.y, _inverse(self._lower)
        weights, mean, sd = inverse @ y, np.empty(len(y)), np.empty(len(y))
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            block = np.linalg.inv(inverse[np.ix_(rows, rows)])
            mean[rows] = y[rows] - block @ weights[rows]
            sd[rows] = np.diag(block)
        return mean, np.sqrt(np.maximum(sd - self.excess, 1e-12))
