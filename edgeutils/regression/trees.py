"""Ensembles of regression trees as plain arrays, so that a file can hold them.

scikit-learn grows them (Geurts, Ernst and Wehenkel 2006, "Extremely randomized trees"; Ke et al.
2017 for boosting on histograms); here they are copied out of its objects and evaluated.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from edgeutils import EdgeError
from edgeutils.regression.features import SETTINGS

# A set of few leaves is one number, with a bit for each, and one for the sign.
_FEW_LEAVES = 63
# Nodes times trees up to which such sets are kept for every threshold (they take 200 MB).
_MOST_SETS = 50_000_000
# Rows times trees at once, such that what is known about them fits into a processor's cache.
_AT_ONCE = 200_000


@dataclass(frozen=True)
class Trees:
    """Sum of trees, one after the other: a node, then all of its left side, then its right side.

    `feature` is the column that a node asks, or -1 for a leaf; a row goes left if its value is at
    most `number`, which in a leaf is the value to add. `base` is added to the sum. A tree that
    does not end, or none at all, raises `EdgeError`.
    """

    feature: np.ndarray
    number: np.ndarray
    base: float = 0.0

    def __post_init__(self) -> None:
        if not len(self.roots) or self._awaited[-1] != -len(self.roots):
            raise EdgeError("there is no tree, or one that does not end")

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Sum the leaves that each row of x (rows, columns) falls into."""
        trees, total = len(self.roots), np.full(len(x), self.base)
        few = self._leaves.max() <= _FEW_LEAVES and trees * len(self.feature) <= _MOST_SETS
        leaves, step = self._reached if few else self._descended, max(_AT_ONCE // trees, 1)
        for start in range(0, len(x), step):
            rows = slice(start, start + step)
            total[rows] += self.number[leaves(x[rows].astype(float))].sum(axis=1)
        return total

    def _descended(self, x: np.ndarray) -> np.ndarray:
        """Leaf of each row and tree, (rows, trees): all go down one level at a time."""
        count, values = len(self.roots), x.ravel()
        node = leaf = np.tile(self.roots, len(x))
        place = np.arange(len(leaf))
        first = place // count * x.shape[1]
        while len(place):
            going = np.flatnonzero(self.feature.take(node) >= 0)
            place, node, first = (each.take(going) for each in (place, node, first))
            left = values.take(first + self.feature.take(node)) <= self.number.take(node)
            node = np.where(left, node + 1, self._right.take(node))
            leaf[place] = node
        return leaf.reshape(-1, count)

    def _reached(self, x: np.ndarray) -> np.ndarray:
        """Leaf of each row and tree, (rows, trees), where leaves are few.

        A node that sends a row to the right puts the leaves on its left out of the row's reach.
        Whatever the order of the nodes, the first leaf that remains is the row's own (Lucchese et
        al. 2015, QuickScorer), so that each column is looked up once for all trees.
        """
        reach = np.full((len(x), len(self.roots)), -1, self._bits)
        for column, thresholds, remaining in self._columns:
            reach &= remaining[np.searchsorted(thresholds, x[:, column])]
        lowest_bit = np.frexp(reach & -reach)[1] - 1
        return self._leaf_nodes[_before(self._leaves) + lowest_bit]

    @cached_property
    def roots(self) -> np.ndarray:
        """First node of each tree."""
        lowest = np.minimum.accumulate(self._awaited[:-1])
        return np.flatnonzero(np.diff(lowest, prepend=1))

    @cached_property
    def _awaited(self) -> np.ndarray:
        """Sides still to come, before each node and at the end: -1 is the end of the first tree."""
        return np.cumsum(np.append(0, np.where(self.feature < 0, -1, 1)))

    @cached_property
    def _right(self) -> np.ndarray:
        """Where the right side of a node begins: as many sides are awaited as before the node."""
        order = np.argsort(self._awaited, kind="stable")
        right = np.empty(len(order), int)
        right[order] = np.roll(order, -1)
        return right

    @cached_property
    def _leaves(self) -> np.ndarray:
        return np.add.reduceat(self.feature < 0, self.roots, dtype=int)

    @cached_property
    def _leaf_nodes(self) -> np.ndarray:
        return np.flatnonzero(self.feature < 0)

    @property
    def _bits(self) -> type[np.signedinteger]:
        return np.int32 if self._leaves.max() < np.iinfo(np.int32).bits else np.int64

    @cached_property
    def _columns(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Columns, each with its thresholds in order, (n,), and sets of leaves, (n + 1, trees).

        Row i of the sets is what remains of each tree where a value exceeds i thresholds, one bit
        per leaf.
        """
        tree = np.searchsorted(self.roots, np.arange(len(self.feature)), side="right") - 1
        leaf = _before(self.feature < 0) - _before(self._leaves)[tree]
        nodes = np.argsort(self.number, kind="stable")
        nodes = nodes[self.feature[nodes] >= 0]
        one = np.int64(1)
        kept = ~((one << leaf[self._right[nodes]]) - (one << leaf[nodes]))
        found = []
        for column in np.unique(self.feature[nodes]):
            asks = self.feature[nodes] == column
            remaining = np.full((asks.sum() + 1, len(self.roots)), -1, self._bits)
            remaining[np.arange(asks.sum()) + 1, tree[nodes[asks]]] = kept[asks]
            np.bitwise_and.accumulate(remaining, out=remaining)
            found.append((int(column), self.number[nodes[asks]], remaining))
        return found


def _before(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) - counts


def boost(x: np.ndarray, y: np.ndarray) -> Trees:
    """Average several boosted ensembles with the settings of the kernel predictor."""
    settings = SETTINGS["boosting"]
    models = [
        HistGradientBoostingRegressor(**settings["settings"], random_state=seed).fit(x, y)
        for seed in range(settings["bags"])
    ]
    return boosted(models)


def grow_forest(x: np.ndarray, y: np.ndarray) -> Trees:
    """Grow a forest of random splits with the settings of the kernel predictor."""
    return forest(ExtraTreesRegressor(**SETTINGS["forest"], random_state=0).fit(x, y))


def boosted(models: list[HistGradientBoostingRegressor]) -> Trees:
    """Average of boosted ensembles that were fitted without missing values."""
    # The fitted trees are private in scikit-learn; `tests/test_trees.py` compares.
    nodes = np.concatenate([tree.nodes for model in models for (tree,) in model._predictors])
    leaf = nodes["is_leaf"].astype(bool)
    number = np.where(leaf, nodes["value"] / len(models), nodes["num_threshold"])
    base = np.mean([np.ravel(model._baseline_prediction)[0] for model in models])
    return Trees(np.where(leaf, -1, nodes["feature_idx"]), number, float(base))


def forest(model: ExtraTreesRegressor) -> Trees:
    """Average of the trees of a forest."""
    trees = [estimator.tree_ for estimator in model.estimators_]
    feature = np.concatenate([tree.feature for tree in trees])
    value = np.concatenate([tree.value[:, 0, 0] for tree in trees]) / len(trees)
    threshold = np.concatenate([tree.threshold for tree in trees])
    return Trees(np.maximum(feature, -1), np.where(feature < 0, value, threshold))
