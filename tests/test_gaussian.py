from dataclasses import replace

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern

from edgeutils.regression import gaussian
from edgeutils.regression.gaussian import Covariance, fit

MIXED = (
    Covariance((0, 1, 2)),
    Covariance((3,), linear=True, within=True),
    Covariance((1,), variance=0.5, length=2.0),
    Covariance((0, 2), within=True, variance=0.3),
)


def rows(n, columns=4, seed=0):
    """Features, a smooth target with noise, three noise columns, known noise, and three kinds."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, columns))
    y = np.sin(x[:, 0]) + 0.3 * x[:, -1] + rng.normal(0, 0.1, n)
    basis = np.column_stack([np.ones(n), rng.uniform(0, 2, (n, 2))])
    return x, y - y.mean(), basis, rng.uniform(0, 0.01, n), rng.integers(3, size=n)


def problem(terms, n, **options):
    return gaussian._Problem(terms, *rows(n, **options))


@pytest.mark.parametrize("terms", [MIXED, MIXED[1:], MIXED[:1], MIXED[1:2]])
def test_the_gradient_is_that_of_the_loss(terms):
    found = problem(terms, 25)
    at = found.start + np.random.default_rng(1).normal(0, 0.7, len(found.start))
    steps = 1e-5 * np.eye(len(at))
    numeric = [(found._loss(at + s)[0] - found._loss(at - s)[0]) / 2e-5 for s in steps]
    assert found._loss(at)[1] == pytest.approx(np.array(numeric), rel=1e-5, abs=1e-5)


def test_the_search_ends_where_the_gradient_vanishes_or_a_bound_is():
    x, y, basis, known, kinds = rows(40)
    fitted = fit(MIXED, x, y, basis, known, kinds, robust=False)
    found = fitted.problem
    (loss, slope), bounds = found._loss(fitted.parameters), found._bounds.T
    free = (fitted.parameters > bounds[0] + 1e-9) & (fitted.parameters < bounds[1] - 1e-9)
    assert free.sum() >= 8
    assert np.abs(slope[free]).max() < 0.02
    assert loss < found._loss(found.start)[0] - 1


def test_one_term_is_the_process_of_scikit_learn():
    x, y, _, _, kinds = rows(30, 2)
    new = rows(17, 2, seed=1)[0]
    asked = np.zeros(17, int), np.ones((17, 1))
    ours = gaussian._Problem(
        (Covariance((0, 1)),), x, y, np.ones((30, 1)), np.full(30, 0.02), 0 * kinds
    )
    # At the start the prior on the parameters is at its top: the loss is the likelihood alone.
    variance, *lengths, noise = np.exp(ours.start)
    kernel = ConstantKernel(variance) * Matern(lengths, nu=1.5)
    theirs = GaussianProcessRegressor(kernel, alpha=noise + 0.02 + 1e-9, optimizer=None).fit(x, y)
    likelihood = theirs.log_marginal_likelihood(theirs.kernel_.theta)
    assert ours._loss(ours.start)[0] == pytest.approx(-likelihood - 15 * np.log(2 * np.pi))
    mean, sd = theirs.predict(new, return_std=True)
    found, unsure = gaussian.Fitted(ours, ours.start).process.predict(new, *asked)
    assert found == pytest.approx(mean, abs=1e-9)
    assert unsure == pytest.approx(np.sqrt(sd**2 + noise), abs=1e-9)


def test_predictions_do_not_depend_on_the_rows_asked_along(monkeypatch):
    x, y, basis, known, kinds = rows(40)
    process = fit(MIXED, x, y, basis, known, kinds).process
    whole = process.predict(x, kinds, basis)
    monkeypatch.setattr(gaussian, "_CHUNK", 7)
    assert np.allclose(process.predict(x, kinds, basis), whole, rtol=1e-12)


@pytest.mark.parametrize("robust", [False, True])
def test_left_out_rows_in_closed_form_are_those_of_a_refit_without_them(robust):
    x, y, basis, known, kinds = rows(40)
    y[3] += 4
    folds = np.arange(40) % 7
    fitted = fit(MIXED, x, y, basis, known, kinds, robust=robust)
    assert np.argmax(fitted.excess) == 3 if robust else fitted.excess == 0
    mean, sd = fitted.left_out(folds)
    for fold in range(7):
        out, left = folds == fold, folds != fold
        p = fitted.problem
        part = {name: getattr(p, name)[left] for name in ("x", "y", "basis", "known", "kinds")}
        again = gaussian.Fitted(replace(p, **part), fitted.parameters).process
        expected, unsure = again.predict(x[out], kinds[out], basis[out])
        assert mean[out] == pytest.approx(expected, abs=1e-7)
        # Of the known noise the prediction knows nothing; what weighs row 3 down is in neither.
        assert sd[out] ** 2 == pytest.approx(unsure**2 + known[out], abs=1e-7)


def test_kinds_that_share_nothing_are_as_if_alone():
    x, y, basis, known, kinds = rows(40)
    together = gaussian._Problem((MIXED[3],), x, y, basis, known, kinds)
    mine = kinds == 1
    alone = replace(
        together, x=x[mine], y=y[mine], basis=basis[mine], known=known[mine], kinds=kinds[mine]
    )
    new = rows(10, seed=1)[0]
    asked = new, np.ones(10, int), np.ones((10, 3))
    found, apart = (gaussian.Fitted(p, together.start).process for p in (together, alone))
    assert np.allclose(found.predict(*asked), apart.predict(*asked), atol=1e-9)
    elsewhere = found.predict(new, np.zeros(10, int), asked[2])[0]
    assert np.abs(elsewhere - found.predict(*asked)[0]).max() > 0.1


def test_a_gross_error_is_weighted_down_and_hardly_moves_its_neighbours():
    rng = np.random.default_rng(2)
    x = np.linspace(-2, 2, 60)[:, None]
    truth = np.sin(2 * x[:, 0])
    y = truth + rng.normal(0, 0.03, 60)
    y[30] += 1.5
    data = (Covariance((0,)),), x, y, np.ones((60, 1)), np.zeros(60)
    kinds, near = np.zeros(60, int), np.r_[27:30, 31:34]
    misses = {}
    for robust in (True, False):
        fitted = fit(*data, robust=robust)
        misses[robust] = np.abs(fitted.process.predict(x, kinds, data[3])[0] - truth)[near].max()
        if robust:
            assert np.argmax(fitted.excess) == 30
            assert fitted.excess[30] > 10 * np.delete(fitted.excess, 30).max()
            assert np.sqrt(fitted.process.noise[0]) == pytest.approx(0.03, rel=0.3)
    assert misses[True] < 0.05
    assert misses[True] < misses[False] / 3


def test_noise_that_differs_from_row_to_row_is_found():
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, (240, 1))
    loud = rng.random(240) < 0.5
    y = np.sin(2 * x[:, 0]) + rng.normal(0, np.where(loud, 0.3, 0.03))
    basis = np.column_stack([np.ones(240), loud])
    data = (Covariance((0,)),), x, y, basis, np.zeros(240)
    noise = fit(*data, robust=False).process.noise
    assert np.sqrt(noise[0]) == pytest.approx(0.03, rel=0.15)
    assert np.sqrt(noise.sum()) == pytest.approx(0.3, rel=0.15)
    # What is weighted down is not counted as noise, alike for all rows.
    tolerant = fit(*data).process.noise
    assert np.sqrt(tolerant.sum() / tolerant[0]) == pytest.approx(10, rel=0.2)
    # Known noise is not learned once more.
    known = np.where(loud, 0.3**2, 0.0)
    rest = fit((Covariance((0,)),), x, y, basis[:, :1], known, robust=False).process
    assert np.sqrt(rest.noise[0]) == pytest.approx(0.03, rel=0.25)


def test_noise_that_no_training_row_has_is_not_added():
    x, y, basis, known, kinds = rows(40)
    basis[:, 1:] = 0
    process = fit((Covariance((0,)),), x, y, basis, known, kinds).process
    loud = np.column_stack([np.ones(40), np.full((40, 2), 50.0)])
    assert process.noise[0] > 0
    assert np.array_equal(process.predict(x, kinds, loud), process.predict(x, kinds, basis))


def test_a_fit_goes_on_from_the_parameters_of_much_the_same_rows():
    x, y, basis, known, kinds = rows(80)
    full = fit(MIXED, x, y, basis, known, kinds)
    few = slice(0, 60)
    part = x[few], y[few], basis[few], known[few], kinds[few]
    warm, cold = fit(MIXED, *part, start=full.parameters), fit(MIXED, *part)
    asked = x[60:], kinds[60:], basis[60:]
    (near, _), (mean, sd) = warm.process.predict(*asked), cold.process.predict(*asked)
    assert np.abs(near - mean).max() < 0.2 * sd.min()
