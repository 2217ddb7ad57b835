from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError, datasets
from edgeutils.networks import sampler
from edgeutils.networks.kernels import KERNEL_TYPES, Kernel, add_work, kernel_frame
from edgeutils.regression.features import (
    COST_NAMES,
    FEATURE_NAMES,
    SETTINGS,
    cost_terms,
    features,
)
from edgeutils.regression.kernel_predictor import (
    COSTS,
    FEATURES,
    MEMBERS,
    Z90,
    KernelPredictor,
    rounding_step,
)
from edgeutils.regression.predictors import KERNEL_TERMS, PaperForest, PerType, PhysicalModel
from edgeutils.regression.studies import kernel_study
from edgeutils.regression.validation import Split, coverage_test, cross_validate

# A quick predictor: one process for each type.
ONE = ("sizes",)


@pytest.fixture(scope="module")
def own():
    """Own kernels of float32 on one thread; their target is the latency."""
    table = kernel_study({"litert-x86": datasets.load("litert-x86")}, target="latency_s")
    return table[table["study"] == "own kernels, float32, CPU1"].reset_index(drop=True)


def of(table, *kinds, rows=None):
    """Rows of some types (the first so many of each), and their latencies."""
    part = table[table["kernel_type"].isin(kinds)]
    part = part.groupby("kernel_type").head(rows) if rows else part
    return part, part["latency_s"].to_numpy(float)


@pytest.fixture(scope="module")
def small(own):
    """Predictor with one process for each of two types, and its rows."""
    rows, y = of(own, "avgpool", "relu")
    return KernelPredictor(members=ONE).fit(rows, y), rows


def thin(patch):
    """Grow fewer trees, which takes less time and makes them no better."""
    patch.setitem(SETTINGS["boosting"], "bags", 1)
    patch.setitem(SETTINGS["boosting"]["settings"], "max_iter", 30)
    patch.setitem(SETTINGS["forest"], "n_estimators", 20)


def convolutions(rows, seed=0, noise=0.03):
    """Convolutions with a price list, and a factor for which no term of it can account."""
    table = kernel_frame(sampler.sample("conv-bn-relu", rows, seed=seed))
    elements = (table["input_bytes"] + table["output_bytes"]) / 4
    hidden = np.exp(0.3 * np.sin(np.log(table["cin"].astype(float))))
    noise = np.random.default_rng(seed).lognormal(0, noise, rows)
    energy = (1e-5 + 1e-10 * table["macs"] + 1e-9 * elements) * hidden * noise
    return table, energy.to_numpy(float)


def widths(predictor, rows):
    low, high = predictor.interval(rows)
    return np.log(high / low)


def changed(predictor, **fields):
    """Copy of a predictor whose models of all types have other fields."""
    made = KernelPredictor(members=predictor.members)
    made.types_ = {kind: replace(model, **fields) for kind, model in predictor.types_.items()}
    return made


# Features.


@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_every_feature_and_cost_of_every_type_is_finite(kind):
    table = kernel_frame(sampler.sample(kind, 40))
    with np.errstate(all="raise"):
        x, work = features(table, FEATURE_NAMES), cost_terms(table, COST_NAMES)
    assert x.shape == (40, len(FEATURE_NAMES))
    assert np.isfinite(x).all()
    assert np.isfinite(work).all()
    assert (work >= 0).all()
    # One that is the same for all kernels of all types would be of no use.
    assert (np.ptp(x, axis=0) > 0).sum() >= 5


def test_the_settings_name_features_and_costs_that_there_are():
    asked = {name for names in FEATURES.values() for name in names}
    assert asked <= set(FEATURE_NAMES)
    assert {name for names in COSTS.values() for name in names} <= set(COST_NAMES)
    assert set(FEATURES) <= set(MEMBERS)
    # None is the same for all kernels, and all are asked for.
    rare = Kernel("conv-bn-relu", 14, 8, 8, 3, 1, padding=1, dilation=2, groups=4)
    drawn = [k for kind in KERNEL_TYPES for k in sampler.sample(kind, 12)]
    assert (np.ptp(features(kernel_frame([*drawn, rare]), FEATURE_NAMES), axis=0) > 0).all()
    assert asked == set(FEATURE_NAMES)


def test_features_of_a_known_convolution():
    kernel = Kernel("conv-bn-relu", hw=14, cin=1024, cout=20, kernel_size=3, stride=2)
    names = ("tiles_4x8", "tiles_6x8", "fill_8", "fill_16", "cin_fill_8", "side_fill_4")
    names += ("channels_mod_4", "odd_side", "cin_alias", "intensity", "patches", "pointwise")
    found = dict(zip(names, features(kernel_frame([kernel]), names)[0], strict=True))
    # The output has 7 x 7 pixels, each of which sees a window of 9 x 1024 numbers.
    macs, traffic = 49 * 9 * 1024 * 20, 14**2 * 1024 + 49 * 20 + 9 * 1024 * 20 + 20
    expected = {
        "tiles_4x8": np.log(52 * 9 * 1024 * 24),
        "tiles_6x8": np.log(54 * 9 * 1024 * 24),
        "fill_8": np.log(24 / 20),
        "fill_16": np.log(32 / 20),
        "cin_fill_8": 0,
        "side_fill_4": 2 * np.log(8 / 7),
        "channels_mod_4": 0,
        "odd_side": 1,
        "cin_alias": 3,
        "intensity": np.log((macs + 1) / traffic),
        "patches": np.log(49 * 9 * 1024),
        "pointwise": 0,
    }
    assert found == pytest.approx(expected)
    costs = ("macs", "padded_macs", "padded_window", "pixels", "elements_beyond_30_thousand")
    assert cost_terms(kernel_frame([kernel]), costs)[0].tolist() == pytest.approx(
        [macs, macs * 32 / 20, 49 * 9 * 1024, 49, 14**2 * 1024 + 49 * 20 - 3e4]
    )


@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_a_kernel_and_its_quantised_twin_have_the_same_features(kind):
    # All features and costs count numbers, not bytes.
    both = [kernel_frame(sampler.sample(kind, 10, dtype=dtype)) for dtype in ("float32", "int8")]
    assert not both[0]["input_bytes"].equals(both[1]["input_bytes"])
    for found, names in ((features, FEATURE_NAMES), (cost_terms, COST_NAMES)):
        assert np.array_equal(*(found(table, names) for table in both))


def test_an_add_has_the_same_features_however_its_inputs_are_written():
    plain, named = Kernel("add", hw=14, cin=64), Kernel("add", hw=14, cin1=64, cin2=64)
    one = Kernel("add", hw=14, cin=64, cin1=64, cin2=1)
    x = features(kernel_frame([plain, named, one]), FEATURE_NAMES)
    assert x[0].tolist() == x[1].tolist()
    differs = np.array(FEATURE_NAMES)[x[0] != x[2]].tolist()
    assert sorted(differs) == sorted(["read", "traffic", "work", "intensity"])


@pytest.mark.parametrize(
    "change", [{"cin": np.nan}, {"dtype": None}, {"dtype": "float64"}, {"input_bytes": np.nan}]
)
def test_a_row_without_its_configuration_is_named(change):
    table = kernel_frame(sampler.sample("relu", 3)).set_axis([7, 7, 9])
    broken = pd.concat([table.iloc[:2], table.iloc[2:].assign(**change)])
    with pytest.raises(EdgeError) as caught:
        features(broken, ("work",))
    assert str(caught.value) == (
        "row 9: the configuration of this relu kernel is not complete; give every column that "
        "its type needs, and dtype"
    )
    with pytest.raises(EdgeError, match="row 7: the configuration of this relu kernel is not"):
        features(table.assign(**change), ("work",))


# Accuracy and intervals.


@pytest.fixture(scope="module")
def unseen(own):
    """Out-of-fold errors on four types, with all members."""
    rows, _ = of(own, "avgpool", "bn", "maxpool", "split")
    models = {
        "ours": KernelPredictor(),
        "physical": PerType(PhysicalModel(KERNEL_TERMS, by_dtype=False)),
        "forest": PerType(PaperForest(trees=100)),
    }
    with pytest.MonkeyPatch.context() as patch:
        thin(patch)
        return cross_validate(
            models, rows, {"grouped": Split("grouped", folds=2)}, target="latency_s"
        )


@pytest.mark.parametrize("rival", ["physical", "forest"])
def test_kernels_never_seen_are_predicted_better_than_by_the_baselines(unseen, rival):
    mape = unseen.groupby(["kernel_type", "method"])["ape"].mean().unstack()
    assert (mape["ours"] / mape[rival]).median() < 0.85
    assert mape["ours"].median() < 0.2


def test_intervals_cover_nine_in_ten_kernels_never_seen(unseen):
    ours = unseen[unseen["method"] == "ours"]
    assert len(ours) == 178
    assert coverage_test(ours) > 0.001
    assert (ours["low90"] < ours["predicted"]).all()
    assert (ours["predicted"] < ours["high90"]).all()
    # An interval that says nothing would cover too.
    assert np.median(ours["high90"] / ours["low90"]) < 2.5


def test_coverage_follows_the_widening(own):
    rows, y = of(own, "avgpool", "maxpool", "relu")
    seen = np.arange(len(rows)) % 2 == 0
    predictor = KernelPredictor(members=ONE).fit(rows[seen], y[seen])
    asked, measured = rows[~seen], y[~seen]
    for kind, model in predictor.types_.items():
        # The widening is what nine in ten left-out rows of the training needed.
        n = (rows[seen]["kernel_type"] == kind).sum()
        rank = min(np.ceil(0.9 * (n + 1)), n)
        assert model.validation["rows"] == n
        assert rank - 1 <= model.validation["coverage"] * n <= rank + 1e-9
    found = {}
    for factor in (0.3, 1.0, 3.0):
        wider = changed(predictor)
        wider.types_ = {
            kind: replace(model, widening=factor * model.widening)
            for kind, model in predictor.types_.items()
        }
        assert widths(wider, asked) == pytest.approx(factor * widths(predictor, asked))
        low, high = wider.interval(asked)
        found[factor] = np.mean((low <= measured) & (measured <= high))
    assert found[0.3] < 0.7 < found[1.0] < found[3.0]


def test_what_a_type_is_shifted_by_moves_all_its_rows(small):
    predictor, rows = small
    moved = changed(predictor, shift=np.log(3), shift_sd=0.5)
    assert moved.predict(rows) == pytest.approx(3 * predictor.predict(rows))
    both = np.hypot(widths(predictor, rows), 2 * Z90 * 0.5 * _outside(predictor, rows))
    assert widths(moved, rows) == pytest.approx(both)


def _outside(predictor, rows):
    return np.where(predictor.extrapolated(rows), 1.5, 1.0)


def test_what_no_price_accounts_for_is_learned():
    table, energy = convolutions(160)
    predictor = KernelPredictor(members=ONE).fit(table[:120], energy[:120])
    asked, measured = table[120:], energy[120:]
    error = np.abs(predictor.predict(asked) / measured - 1)
    member = predictor.types_["conv-bn-relu"].members["sizes"]
    plain = np.abs(np.exp(member.physical.log(asked)) / measured - 1)
    assert error.mean() < 0.06
    assert error.mean() < 0.5 * plain.mean()


def test_far_outside_the_physical_model_is_left():
    table, energy = convolutions(60)
    predictor = KernelPredictor(members=ONE).fit(table, energy)
    giant = convolutions(5, seed=3)[0]
    giant[["macs", "params", "input_bytes", "output_bytes"]] *= 1e4
    giant[["cin", "cout"]] *= 10**6
    physical = predictor.types_["conv-bn-relu"].members["sizes"].physical
    assert predictor.predict(giant) == pytest.approx(np.exp(physical.log(giant)), rel=0.1)
    assert predictor.extrapolated(giant).all()


def test_types_with_few_rows_learn_from_the_others():
    # All types have the same cost per number moved, that bends; of one there are six rows only.
    kinds = {"relu": 30, "bnrelu": 30, "hswish": 30, "split": 6}
    table = kernel_frame(k for kind, n in kinds.items() for k in sampler.sample(kind, n, seed=2))
    new = kernel_frame(sampler.sample("split", 40, seed=3))

    def cost(rows, seed):
        work = cost_terms(rows, ["work"])[:, 0]
        noise = np.random.default_rng(seed).lognormal(0, 0.03, len(rows))
        return 1e-9 * work * np.exp(0.5 * np.sin(np.log(work))) * noise

    errors = {}
    for members in (ONE, (*ONE, "shared")):
        predictor = KernelPredictor(members=members).fit(table, cost(table, 0))
        errors[members] = np.abs(predictor.predict(new) / cost(new, 1) - 1).mean()
    assert errors[*ONE, "shared"] < 0.7 * errors[ONE]
    assert predictor.types_["split"].weights["shared"] > 0.3


# Rows that are few, unknown, broken or outside.


def test_types_with_fewer_than_five_rows_are_left_out_and_named(own):
    rows = pd.concat([of(own, kind, rows=n)[0] for kind, n in (("relu", 8), ("bn", 4), ("se", 1))])
    predictor = KernelPredictor(members=ONE).fit(rows, rows["latency_s"])
    assert predictor.left_out_ == {"bn": 4, "se": 1}
    assert list(predictor.types_) == ["relu"]
    known = rows[rows["kernel_type"] == "relu"]
    assert (predictor.predict(known) > 0).all()
    with pytest.raises(EdgeError) as caught:
        predictor.predict(rows)
    assert str(caught.value) == "this predictor was not trained on bn, se; it knows relu"
    few = rows[rows["kernel_type"] != "relu"]
    with pytest.raises(
        EdgeError, match=r"needs 5 configurations or more of a kernel type; the table has .*4"
    ):
        KernelPredictor(members=ONE).fit(few, few["latency_s"])


def test_five_rows_are_enough(own):
    rows, y = of(own, "relu", "bn", rows=5)
    predictor = KernelPredictor(members=(*ONE, "shared")).fit(rows, y)
    assert np.abs(np.log(predictor.predict(rows) / y)).max() < 1
    assert np.isfinite(widths(predictor, rows)).all()


def test_a_target_that_is_not_positive_and_a_row_without_configuration_are_refused(small, own):
    predictor, rows = small
    target = rows["latency_s"].to_numpy(float)
    with pytest.raises(EdgeError, match="target must be positive in every row"):
        KernelPredictor(members=ONE).fit(rows, np.where(target > target.min(), target, 0))
    lacking = add_work(rows.drop(columns=["macs", "params", "input_bytes", "output_bytes"]))
    lacking.loc[lacking.index[3], ["macs", "params", "input_bytes", "output_bytes"]] = np.nan
    for ask in (predictor.predict, predictor.interval, predictor.extrapolated):
        with pytest.raises(EdgeError, match=f"row {rows.index[3]}: the configuration of this"):
            ask(lacking)
    with pytest.raises(EdgeError, match="the configuration of this"):
        KernelPredictor(members=ONE).fit(lacking, target)
    with pytest.raises(EdgeError, match="needs the column macs"):
        predictor.predict(rows.drop(columns="macs"))


def test_rows_outside_the_training_are_flagged_and_their_intervals_wider(own):
    rows, y = of(own, "avgpool", "maxpool", "relu")
    inside = (rows["cin"] <= rows["cin"].quantile(0.7)).to_numpy()
    predictor = KernelPredictor(members=ONE).fit(rows[inside], y[inside])
    assert not predictor.extrapolated(rows[inside]).any()
    asked = rows[~inside]
    largest = rows[inside].groupby("kernel_type")["cin"].max()
    beyond = (asked["cin"] > 1.1 * asked["kernel_type"].map(largest)).to_numpy()
    flagged = predictor.extrapolated(asked)
    assert beyond.sum() > 10
    assert flagged[beyond].all()
    # The flag alone makes an interval half as wide again, and distance does the rest.
    unlimited = changed(predictor, low=-np.inf, high=np.inf)
    for model in unlimited.types_.values():
        assert not model.extrapolated(asked.head(0)).any()
    relaxed = changed(predictor, low=np.full(11, -1e9), high=np.full(11, 1e9))
    assert not relaxed.extrapolated(asked).any()
    ratio = widths(predictor, asked) / widths(relaxed, asked)
    assert ratio == pytest.approx(np.where(flagged, 1.5, 1.0))
    assert np.median(widths(relaxed, asked[beyond])) > np.median(widths(relaxed, rows[inside]))


@pytest.mark.parametrize("members", [(), ("forest",), ("sizes", "bogus"), ("shared",)])
def test_members_that_there_are_not_or_none_of_its_own_are_refused(own, members):
    rows, y = of(own, "relu", rows=8)
    with pytest.raises(EdgeError, match="sizes or tiles included"):
        KernelPredictor(members=members).fit(rows, y)


def test_repeats_of_one_configuration_are_a_type_too(own):
    rows = of(own, "relu", rows=1)[0]
    rows = pd.concat([rows] * 6).assign(group=range(6))
    predictor = KernelPredictor(members=ONE).fit(rows, [1, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert predictor.predict(rows) == pytest.approx([1.25] * 6, rel=0.1)


def test_rows_of_one_group_are_refused_in_a_sentence_or_fitted(own):
    rows, y = of(own, "relu", rows=8)
    try:
        predictor = KernelPredictor(members=ONE).fit(rows.assign(group="a"), y)
    except EdgeError:
        return
    assert (predictor.predict(rows) > 0).all()


def test_rows_without_a_group_are_each_their_own(own):
    rows, y = of(own, "relu", rows=12)
    none, index = rows.assign(group=np.nan), rows.drop(columns="group")
    fits = [KernelPredictor(members=ONE).fit(table, y) for table in (none, index)]
    assert np.array_equal(*(fitted.predict(rows) for fitted in fits))


def test_rows_of_two_number_types_are_refused(own):
    rows, y = of(own, "relu", rows=8)
    with pytest.raises(EdgeError, match="float32, int8"):
        KernelPredictor(members=ONE).fit(rows.assign(dtype=["float32", "int8"] * 4), y)


def test_a_row_without_a_type_is_refused_in_a_sentence(small):
    predictor, rows = small
    kinds = [None, "bn", *rows["kernel_type"].iloc[2:]]
    with pytest.raises(EdgeError, match="has no kernel_type"):
        predictor.predict(rows.assign(kernel_type=kinds))


# Rounding and noise.


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ([1.2e-5, 3.4e-5], 1e-6),
        ([0.001, 0.002, 0.037], 1e-3),
        ([0.5, 0.25], 1e-2),
        ([0.1234567, 0.7654321], 0.0),  # too fine to matter
        ([np.pi / 10, np.e / 10], 0.0),
        ([3e-7, 4e-4], 1e-7),
    ],
)
def test_rounding_step(values, step):
    assert rounding_step(values) == pytest.approx(step)
    assert rounding_step(values[::-1]) == pytest.approx(step)


def test_rounding_widens_the_intervals_of_small_values_only():
    table, energy = convolutions(80, noise=0.02)
    step = float(10.0 ** np.floor(np.log10(np.quantile(energy, 0.3))))
    rounded = np.maximum(np.round(energy / step), 1) * step
    found = {}
    for name, y in (("exact", energy), ("rounded", rounded)):
        predictor = KernelPredictor(members=ONE).fit(table, y)
        found[name] = widths(predictor, table)[np.argsort(energy)]
        assert predictor.types_["conv-bn-relu"].rounding == pytest.approx(
            step if name == "rounded" else 0
        )
    assert found["rounded"][:10].mean() > 3 * found["rounded"][-10:].mean()
    # Half a step is what the smallest may be off by, uniformly: its sd is step / sqrt(12).
    assert found["rounded"][0] > 2 * Z90 / np.sqrt(12)
    assert found["exact"][:10].mean() < 0.5 * found["rounded"][:10].mean()


def test_with_even_noise_small_rows_are_as_sure_as_large_ones():
    table, energy = convolutions(100, noise=0.1)
    order = np.argsort(energy)
    even = KernelPredictor(members=ONE, even_noise=True).fit(table, energy)
    assert (even.types_["conv-bn-relu"].members["sizes"].process.noise > 0).tolist() == [1, 0, 0]
    found = widths(even, table)[order]
    assert 0.5 < found[:30].mean() / found[-30:].mean() < 2
    # Noise that fades with size is learned where the rows are many.
    rng = np.random.default_rng(1)
    typical = np.exp(np.mean(np.log(energy)))
    noisy = energy * np.exp(rng.normal(0, 0.2 * np.minimum(typical / energy, 2)))
    told = widths(KernelPredictor(members=ONE).fit(table, noisy), table)[order]
    assert told[:30].mean() > 3 * told[-30:].mean()


# The same again.


def test_the_seed_alone_decides(own, monkeypatch):
    thin(monkeypatch)
    rows, y = of(own, "maxpool", rows=60)
    fits = [KernelPredictor(seed=seed).fit(rows, y) for seed in (0, 0, 1)]
    assert {"boosting", "forest"} <= set(fits[0].types_["maxpool"].members)
    first, again, other = ((p.predict(rows), *p.interval(rows)) for p in fits)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_rows_are_predicted_alike_in_any_order_and_with_any_index(small):
    predictor, rows = small
    expected, width = predictor.predict(rows), widths(predictor, rows)
    order = np.random.default_rng(0).permutation(len(rows))
    for asked in (rows.iloc[order], rows.iloc[order].set_axis([5] * len(rows))):
        assert predictor.predict(asked) == pytest.approx(expected[order], rel=1e-9)
        assert widths(predictor, asked) == pytest.approx(width[order], rel=1e-9)
    alone = [predictor.predict(rows.iloc[[i]])[0] for i in (0, -1)]
    assert alone == pytest.approx(expected[[0, -1]], rel=1e-9)
    assert predictor.predict(rows.head(0)).shape == (0,)


def test_the_index_of_the_training_does_not_matter(small):
    predictor, rows = small
    named = rows.set_axis(["row"] * len(rows)).drop(columns=["study", "name", "model"])
    again = KernelPredictor(members=ONE).fit(named, named["latency_s"])
    assert np.array_equal(again.predict(rows), predictor.predict(rows))


def test_repeats_of_a_configuration_are_never_on_both_sides_of_an_inner_fold(own):
    # Values without a law: only a repeat on the other side can tell them.
    rows, _ = of(own, "relu", rows=20)
    twice = pd.concat([rows, rows], ignore_index=True)
    y = np.tile(np.random.default_rng(0).lognormal(0, 1, 20), 2)
    torn = twice.assign(group=range(40))
    error = {
        name: KernelPredictor(members=ONE).fit(table, y).types_["relu"].validation["mape"]
        for name, table in (("whole", twice), ("torn", torn))
    }
    assert error["whole"] > 2 * error["torn"]


def test_progress_is_told(own):
    rows, y = of(own, "relu", rows=8)
    told = []
    KernelPredictor(members=ONE, tell=told.append).fit(rows, y)
    assert told == ["relu: 8 rows", *(f"inner fold {i} of 4" for i in range(1, 5))]
