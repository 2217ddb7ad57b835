"""What a kernel predictor averages: Gaussian processes and trees, each over a physical model."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgeutils.regression import gaussian, trees
from edgeutils.regression.features import Kernels, cost_terms, features

#: Parts of the noise of a process, see `noise_basis`.
NOISE_TERMS = 3


def noise_basis(log: np.ndarray, typical: float) -> np.ndarray:
    """Basis of the noise variance: a constant, and two parts that fade with size."""
    ratio = np.exp(np.minimum(typical - log, 6))
    return np.column_stack([np.ones(len(log)), ratio, ratio**2])


def single(kernels: Kernels, names: tuple[str, ...]) -> np.ndarray:
    """Features in single precision: a forest compares in it, so everybody does."""
    return features(kernels, names).astype(np.float32)


@dataclass(frozen=True)
class Physical:
    """A price list: `prices` of a constant and of each of `terms`; never below `floor`."""

    terms: tuple[str, ...]
    prices: np.ndarray
    floor: float

    def log(self, kernels: Kernels) -> np.ndarray:
        """Log of the physical estimate of each kernel."""
        value = self.prices[0] + cost_terms(kernels, self.terms) @ self.prices[1:]
        return np.log(np.maximum(value, self.floor))


@dataclass(frozen=True)
class Scale:
    """Features, standardised; a constant 1 is the last column."""

    names: tuple[str, ...]
    centre: np.ndarray
    spread: np.ndarray

    def __call__(self, kernels: Kernels) -> np.ndarray:
        """Features of each kernel, shape (rows, names + 1)."""
        x = (features(kernels, self.names) - self.centre) / self.spread
        return np.hstack([x, np.ones((len(x), 1))])


@dataclass(frozen=True)
class ProcessMember:
    """A Gaussian process over a physical model; `kind` is the type's number in a shared one.

    `rows` are the kernels that the process was conditioned on, in the order of its points.
    """

    physical: Physical
    scale: Scale
    process: gaussian.Process
    kind: int
    typical: float
    rows: pd.DataFrame

    def predict(self, kernels: Kernels) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of the log."""
        log = self.physical.log(kernels)
        kinds = np.full(len(kernels), self.kind)
        mean, sd = self.process.predict(self.scale(kernels), kinds, noise_basis(log, self.typical))
        return log + mean, sd


@dataclass(frozen=True)
class TreesMember:
    """Trees over a physical model."""

    physical: Physical
    names: tuple[str, ...]
    trees: trees.Trees

    def predict(self, kernels: Kernels) -> tuple[np.ndarray, None]:
        """Mean of the log; trees have no idea of their error."""
        return self.physical.log(kernels) + self.trees.predict(single(kernels, self.names)), None


Member = ProcessMember | TreesMember
