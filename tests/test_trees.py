import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor

from edgeutils.regression import trees
from edgeutils.regression.features import SETTINGS


def rows(n=300, seed=0):
    """Single-precision features, some with few values, and a target with steps."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=n), rng.integers(6, size=n), rng.lognormal(0, 3, n)])
    x = x.astype(np.float32)
    return x, np.where(x[:, 1] % 2, 1.0, 3.0) + np.sin(x[:, 0]) + 0.1 * np.log(x[:, 2])


def thresholds(grown, x):
    """Rows of x, each with a value that a node asks for, exactly."""
    asked = np.flatnonzero(grown.feature >= 0)[: 5 * len(x)]
    found = x[np.arange(len(asked)) % len(x)].astype(float)
    found[np.arange(len(asked)), grown.feature[asked]] = grown.number[asked]
    return found


def boosting(bags=3):
    x, y = rows()
    how = SETTINGS["boosting"]["settings"]
    models = [HistGradientBoostingRegressor(**how, random_state=s).fit(x, y) for s in range(bags)]
    return models, x


def test_boosted_trees_say_what_scikit_learn_says():
    models, x = boosting()
    grown = trees.boosted(models)
    assert len(grown.roots) == 3 * SETTINGS["boosting"]["settings"]["max_iter"]
    for asked in (x, rows(seed=1)[0], 100 * x, thresholds(grown, x)):
        expected = np.mean([model.predict(asked) for model in models], axis=0)
        assert grown.predict(asked) == pytest.approx(expected, abs=1e-12)
    assert np.ptp(grown.predict(x)) > 2


def test_a_forest_says_what_scikit_learn_says():
    x, y = rows()
    model = ExtraTreesRegressor(n_estimators=20, random_state=0).fit(x, y)
    grown = trees.forest(model)
    assert grown.predict(x) == pytest.approx(y, abs=1e-12)  # every row is by itself
    edge = thresholds(grown, x).astype(np.float32)
    for asked in (rows(seed=1)[0], -x, edge):
        assert grown.predict(asked) == pytest.approx(model.predict(asked), abs=1e-12)


@pytest.mark.parametrize("leaves", [31, 32, 63, 64])
def test_sets_of_leaves_and_descent_find_the_same(leaves, monkeypatch):
    x, y = rows()
    how = {"max_leaf_nodes": leaves, "min_samples_leaf": 2, "max_bins": 200}
    model = HistGradientBoostingRegressor(max_iter=5, **how).fit(x, y)
    grown = trees.boosted([model])
    asked = np.concatenate([x, rows(seed=1)[0], thresholds(grown, x)])
    assert np.add.reduceat(grown.feature < 0, grown.roots, dtype=int).max() == leaves
    assert grown.predict(asked) == pytest.approx(model.predict(asked), abs=1e-12)
    monkeypatch.setattr(trees, "_MOST_SETS", 0)
    assert grown.predict(asked) == pytest.approx(model.predict(asked), abs=1e-12)


def test_a_tree_of_one_leaf_is_its_value():
    x, _ = rows(20)
    flat = np.full(20, 7.0)
    assert trees.forest(ExtraTreesRegressor(5).fit(x, flat)).predict(x).tolist() == [7.0] * 20
    few = HistGradientBoostingRegressor(max_iter=3).fit(x, flat)
    assert trees.boosted([few]).predict(x) == pytest.approx(flat)


def test_the_rows_asked_along_do_not_matter():
    models, x = boosting(bags=1)
    grown = trees.boosted(models)
    whole = grown.predict(x)
    assert np.array_equal(np.concatenate([grown.predict(x[:1]), grown.predict(x[1:])]), whole)
    assert np.array_equal(grown.predict(x[::-1]), whole[::-1])
    assert grown.predict(x[:0]).shape == (0,)
