r"""Predictors made from predictors: compact ones that hold no row of a data set, adapted ones.

*Compact*: a process is conditioned anew on points that nobody measured. Candidates are drawn like
the kernels of networks and around the training; those are taken one by one that explain most of
the exact posterior (greedy selection, Smola and Bartlett 2001). The mean is fitted to the exact
one by least squares (projection onto the points, as of Titsias 2009), and each point gets the noise
variance that makes the posterior's variance there what the exact one is: an exact process on
pseudo-data, that is evaluated and stored like any other.

*Adapted*: the same kernels on another device. Per type, the log is shifted by

.. math:: \delta_t = \mu + u_t, \quad u_t \sim N(0, \tau^2)

estimated from few points by random effects (DerSimonian and Laird 1986): a type with few points is
shrunk towards the common shift, one without takes it.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.linalg import cholesky, solve_triangular
from scipy.stats import t as student

from edgeutils import EdgeError
from edgeutils.networks.kernels import add_work, kernel_frame
from edgeutils.networks.sampler import sample
from edgeutils.regression.gaussian import Process
from edgeutils.regression.kernel_predictor import Z90, KernelPredictor, TypeModel
from edgeutils.regression.members import Member, ProcessMember
from edgeutils.regression.physical import positive

_SIZES = ["hw", "cin", "cout", "cin1", "cin2", "cin3", "cin4"]
_WINDOWS = ["kernel_size", "stride", "padding", "dilation", "groups"]
# Candidates per process, and largest log factors between one drawn around the training and the
# row it started from.
_SAMPLED, _AROUND, _FACTORS = 2000, 6000, (0.05, 0.2, 0.6)
_ROUNDS = 25


def compact(predictor: KernelPredictor, *, points: int = 400, seed: int = 0) -> KernelPredictor:
    """Refit every process on at most `points` designed points, none of them a training row.

    Means agree with the exact ones within 1 %, and widths within 10 % for kernels that were not in
    the training, nearly everywhere if there are about as many points as rows (`fidelity` tells);
    at the training's own kernels the exact one is surer. Trees hold values of rows: a predictor
    with any raises `EdgeError`, to be fitted with processes only.
    """
    rng, done = np.random.default_rng(seed), {}
    models = {}
    for kind, model in predictor.types_.items():
        members: dict[str, Member] = {}
        for name, member in model.members.items():
            if not isinstance(member, ProcessMember):
                raise EdgeError(
                    "trees hold values of their training rows; fit with `members` that are "
                    "processes to make a compact predictor"
                )
            key = id(member.process)
            if key not in done:
                users = {k: m for k, m in predictor.types_.items() if _uses(m, member.process)}
                done[key] = _refitted(member, users, points, rng)
            process, rows = done[key]
            members[name] = replace(member, process=process, rows=rows)
        models[kind] = replace(model, members=members)
    return _of(predictor, models)


def fidelity(exact: KernelPredictor, other: KernelPredictor, table: pd.DataFrame) -> pd.DataFrame:
    """Compare two predictors row by row: `value` and `width`, other / exact - 1."""
    mean, sd = exact._logs(table)
    other_mean, other_sd = other._logs(table)
    return pd.DataFrame({"value": np.expm1(other_mean - mean), "width": other_sd / sd - 1})


def _of(predictor: KernelPredictor, models: Mapping[str, TypeModel]) -> KernelPredictor:
    made = KernelPredictor(members=predictor.members, seed=predictor.seed)
    made.types_, made.left_out_ = dict(models), dict(predictor.left_out_)
    return made


def _uses(model: TypeModel, process: Process) -> bool:
    return any(getattr(m, "process", None) is process for m in model.members.values())


def _candidates(
    rows: pd.DataFrame, users: Mapping[str, TypeModel], rng: np.random.Generator
) -> pd.DataFrame:
    """Kernels in the range of their types that are no row of the training."""
    dtypes = rows["dtype"].unique().tolist()
    drawn = [
        kernel_frame(sample(kind, _SAMPLED // len(users), seed=int(rng.integers(2**31)), dtype=d))
        for kind in users
        for d in dtypes
    ]
    columns = ["kernel_type", "dtype", *_SIZES, *_WINDOWS]
    start = rows.iloc[rng.integers(len(rows), size=_AROUND)].reindex(columns=columns)
    start = start.reset_index(drop=True)
    start[_SIZES + _WINDOWS] = start[_SIZES + _WINDOWS].astype(float)
    spread = rng.choice(_FACTORS, len(start))
    for name in _SIZES:
        factor = np.exp(rng.uniform(-spread, spread) * (rng.random(len(start)) < 0.6))
        start[name] = (start[name] * factor).round().clip(lower=1)
    numbers = dict.fromkeys(_SIZES + _WINDOWS, float)
    drawn = [part.reindex(columns=columns).astype(numbers) for part in drawn]
    pool = pd.concat([*drawn, start], ignore_index=True).drop_duplicates()
    seen = rows.reindex(columns=columns).astype(numbers).drop_duplicates()
    pool = pool.merge(seen, how="left", indicator=True, on=columns)
    pool = add_work(pool[pool.pop("_merge") == "left_only"].reset_index(drop=True))
    outside = np.ones(len(pool), bool)
    for kind, model in users.items():
        mine = np.flatnonzero(pool["kernel_type"] == kind)
        outside[mine] = model.extrapolated(pool.iloc[mine])
    return pool[~outside].reset_index(drop=True)


def _refitted(
    member: ProcessMember, users: Mapping[str, TypeModel], points: int, rng: np.random.Generator
) -> tuple[Process, pd.DataFrame]:
    exact = member.process
    number: dict[str, int] = {}
    for kind, model in users.items():
        mine = [m for m in model.members.values() if isinstance(m, ProcessMember)]
        number[kind] = next(m.kind for m in mine if m.process is exact)
    pool = _candidates(member.rows, users, rng)
    x, kinds = member.scale(pool), pool["kernel_type"].map(number).to_numpy(int)
    taken = _greedy(exact, x, kinds, points)
    at = replace(exact, points=x[taken], kinds=kinds[taken])
    prior = at.covariance(at.points, at.kinds)[0]
    # The mean, at all candidates and at the training.
    asked = np.vstack([x, exact.points]), np.concatenate([kinds, exact.kinds])
    truth = exact.covariance(*asked)[0] @ exact.weights
    ridge = 1e-10 * len(truth) * np.eye(len(taken))
    k = at.covariance(*asked)[0]
    weights = np.linalg.solve(k.T @ k + ridge, k.T @ truth)
    # The variance, at the points: a fixed point, as it grows with the noise of its point.
    here, own = exact.covariance(at.points, at.kinds)
    wanted = np.maximum(own - np.square(here @ exact.factor.T).sum(axis=1), 1e-9 * own)
    noise = 3 * wanted
    for _ in range(_ROUNDS):
        lower = cholesky(prior + np.diag(noise), lower=True)
        found = own - np.square(solve_triangular(lower, prior, lower=True)).sum(axis=0)
        noise = np.clip(noise * wanted / np.maximum(found, 1e-12), 1e-9, 1e4)
    lower = cholesky(prior + np.diag(noise), lower=True)
    factor = solve_triangular(lower, np.eye(len(taken)), lower=True)
    return replace(at, weights=weights, factor=factor), pool.iloc[taken]


def _greedy(exact: Process, x: np.ndarray, kinds: np.ndarray, points: int) -> list[int]:
    """Candidates that, one after the other, explain most of what the exact process has learned."""
    k, prior = exact.covariance(x, kinds)
    left, variance = k @ exact.factor.T, prior.copy()
    columns, taken = np.zeros((len(x), points)), []
    for step in range(min(points, len(x))):
        gain = np.square(left).sum(axis=1) / np.maximum(variance, 1e-12)
        gain[variance < 1e-7 * prior] = -1
        best = int(np.argmax(gain))
        if gain[best] <= 1e-12:
            break
        taken.append(best)
        one = replace(exact, points=x[[best]], kinds=kinds[[best]])
        column = one.covariance(x, kinds)[0][:, 0] - columns[:, :step] @ columns[best, :step]
        column /= np.sqrt(variance[best])
        left -= np.outer(column, left[best] / np.sqrt(variance[best]))
        columns[:, step], variance = column, variance - column**2
    return taken


def adapt(base: KernelPredictor, table: pd.DataFrame, target: ArrayLike) -> KernelPredictor:
    """Move a predictor to a device of which few kernels were measured; see the module.

    Rows of types that the base does not know are left out (`left_out_`). Intervals are widened
    until they hold what these rows scatter around the shift, by Student's t as rows are few, and
    by the uncertainty of the shift; never narrowed. Fewer than two rows raise `EdgeError`.
    """
    y, table = positive(target), table.reset_index(drop=True)
    known = table["kernel_type"].isin(list(base.types_)).to_numpy()
    if known.sum() < 2:
        raise EdgeError(
            f"{int(known.sum())} rows have a type that the base predictor knows "
            f"({', '.join(base.types_)}); adapting needs 2 or more"
        )
    rows, kinds = table[known], table.loc[known, "kernel_type"]
    mean, sd = base._logs(rows)
    residual = pd.Series(np.log(y[known]) - mean, rows.index)
    groups = residual.groupby(kinds)
    count, level = groups.size(), groups.mean()
    freedom = len(residual) - len(count)
    within = np.square(residual - groups.transform("mean")).sum()
    # Where hardly a type has two rows, what the base says of its own error stands in.
    within, freedom = within + np.median(sd) ** 2, freedom + 1
    error = within / freedom / count
    between = _between(level, error)
    weight = 1 / (error + between)
    common, doubt = (weight * level).sum() / weight.sum(), 1 / weight.sum()
    trust = between / (between + error)
    shift = (common + trust * (level - common)).reindex(list(base.types_)).fillna(common)
    spread = np.sqrt(trust * error + (1 - trust) ** 2 * doubt)
    spread = spread.reindex(list(base.types_)).fillna(np.sqrt(between + doubt))
    z = (residual - shift[kinds].to_numpy()) / np.hypot(sd, spread[kinds].to_numpy())
    wider = np.sqrt((np.square(z).sum() + 1) / (len(z) + 1)) * student.ppf(0.95, len(z)) / Z90
    models = {
        kind: replace(
            model,
            widening=model.widening * max(wider, 1.0),
            shift=model.shift + float(shift[kind]),
            shift_sd=float(np.hypot(model.shift_sd, spread[kind])),
            validation={},
        )
        for kind, model in base.types_.items()
    }
    made = _of(base, models)
    made.left_out_ = table.loc[~known, "kernel_type"].value_counts().to_dict()
    return made


def _between(level: pd.Series, error: pd.Series) -> float:
    """Variance of the types' shifts beyond their errors, by moments; 0 if there is none."""
    weight = 1 / error
    mean = (weight * level).sum() / weight.sum()
    q = (weight * np.square(level - mean)).sum()
    scale = weight.sum() - np.square(weight).sum() / weight.sum()
    return float(max((q - (len(level) - 1)) / scale, 0.0)) if len(level) > 1 else 0.0
