"""Ensembles of regression trees as plain arrays, so that a file can hold them.

scikit-learn grows them (Geurts, Ernst and Wehenkel 2006, "Extremely randomized trees"; Ke et al.
2017 for boosting on histograms); here they are copied out of its objects and evaluated.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from edgeutils.regression.features import SETTINGS


@dataclass(frozen=True)
class Trees:
    """Sum of trees: nodes in depth-first order, the left child of node i is i + 1.

    `feature` is the column that a node asks, or -1 for a leaf; a row goes left if its value is at
    most `number`, which in a leaf is the value to add. `right` are the right children, `roots` the
    first nodes, `base` what is added to the sum.
    """

    feature: np.ndarray
    number: np.ndarray
    right: np.ndarray
    roots: np.ndarray
    base: float = 0.0

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Sum the leaves that each row of x (rows, columns) falls into."""
        total, columns = np.full(len(x), self.base), np.asfortranarray(x, dtype=float)
        for root in self.roots:
            waiting = [(int(root), np.arange(len(x)))]
            while waiting:
                node, rows = waiting.pop()
                if self.feature[node] < 0:
                    total[rows] += self.number[node]
                elif len(rows):
                    left = columns[rows, self.feature[node]] <= self.number[node]
                    waiting += [(int(self.right[node]), rows[~left]), (node + 1, rows[left])]
        return total


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
    trees = [
        _depth_first(
            np.where(nodes["is_leaf"], -1, nodes["feature_idx"]),
            np.where(nodes["is_leaf"], nodes["value"] / len(models), nodes["num_threshold"]),
            nodes["left"].astype(int),
            nodes["right"].astype(int),
        )
        for model in models
        for (predictor,) in model._predictors
        for nodes in [predictor.nodes]
    ]
    base = float(np.mean([np.ravel(model._baseline_prediction)[0] for model in models]))
    return _join(trees, base)


def forest(model: ExtraTreesRegressor) -> Trees:
    """Average of the trees of a forest."""
    trees = []
    for estimator in model.estimators_:
        tree, leaf = estimator.tree_, estimator.tree_.children_left < 0
        value = tree.value[:, 0, 0] / len(model.estimators_)
        number = np.where(leaf, value, tree.threshold)
        trees.append(
            _depth_first(
                np.where(leaf, -1, tree.feature), number, tree.children_left, tree.children_right
            )
        )
    return _join(trees, 0.0)


def _depth_first(
    feature: np.ndarray, number: np.ndarray, left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    order = list(_visit(feature, left, right))
    place = np.empty(len(feature), int)
    place[order] = np.arange(len(order))
    return feature[order], number[order], np.where(feature[order] < 0, 0, place[right[order]])


def _visit(feature: np.ndarray, left: np.ndarray, right: np.ndarray) -> Iterator[int]:
    waiting = [0]
    while waiting:
        node = waiting.pop()
        yield node
        if feature[node] >= 0:
            waiting += [right[node], left[node]]


def _join(trees: list[tuple[np.ndarray, np.ndarray, np.ndarray]], base: float) -> Trees:
    sizes = [len(feature) for feature, _, _ in trees]
    roots = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(int)
    feature, number = (np.concatenate([tree[i] for tree in trees]) for i in (0, 1))
    right = np.concatenate([tree[2] + root for tree, root in zip(trees, roots, strict=True)])
    return Trees(feature.astype(int), number, right.astype(int), roots, base)
