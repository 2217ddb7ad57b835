"""Scores: the published ones exactly, planted ones, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from edgeutils import ROOT, EdgeError, scores

PUBLISHED = ROOT / "data" / "published"


@pytest.fixture(scope="module")
def devices():
    return pd.read_csv(PUBLISHED / "devices.csv").set_index("device")


@pytest.fixture(scope="module")
def applications():
    power = pd.read_csv(PUBLISHED / "application_power_apc_w.csv")
    energy = pd.read_csv(PUBLISHED / "application_energy_eci_j.csv")
    keys = ["dnn", "processor", "device"]
    table = power.merge(energy, on=keys).rename(
        columns={"dnn": "name", "value_x": "power_w", "value_y": "energy_j"}
    )
    return table.assign(boundary="battery", idle_policy="none")


def planted(**columns):
    """Two devices with two workloads each, scores known by heart."""
    table = pd.DataFrame(
        {
            "device": ["A", "A", "B", "B"],
            "name": ["n1", "n2", "n1", "n2"],
            "processor": "CPU1",
            "power_w": [2.0, 4.0, 1.0, 3.0],
            "energy_j": [0.5, 0.1, 0.25, 1.0],
            "boundary": "battery",
            "idle_policy": "none",
        }
    )
    return table.assign(**columns)


def implied(applications, devices):
    mean_w = applications.groupby("device")["power_w"].mean().reindex(devices.index)
    return scores.implied_tdp(mean_w, devices["pcs"], devices["tdp_w"])


def test_implied_tdp_row_is_unique_and_gives_every_published_pcs(applications, devices):
    orders = implied(applications, devices)
    assert len(orders) == 1
    assert orders.iloc[0].tolist() == [15, 12, 8, 15, 8, 10, 10, 6]
    found = scores.pcs(applications, orders.iloc[0]).set_index("device")["pcs"]
    assert found.round().astype(int).to_dict() == devices["pcs"].to_dict()


def test_printed_tdp_row_gives_two_of_eight_published_pcs(applications, devices):
    found = scores.pcs(applications, devices["tdp_w"]).set_index("device")["pcs"]
    assert (found.round() == devices["pcs"]).sum() == 2


def test_iecs_follows_the_published_scores_without_being_them(applications, devices):
    found = scores.iecs(applications).set_index("device")["iecs"]
    assert scores.rank_correlation(found, devices["iecs"]) == pytest.approx(0.857, abs=5e-4)
    assert found.corr(devices["iecs"]) == pytest.approx(0.939, abs=5e-4)


def test_planted_scores_and_ranks():
    table = planted()
    by_pcs = scores.pcs(table, {"A": 10.0, "B": 4.0, "spare": 1.0})
    assert by_pcs["pcs"].tolist() == pytest.approx([70.0, 50.0])
    assert by_pcs["rank"].tolist() == [1, 2]
    by_iecs = scores.iecs(table)
    assert by_iecs["iecs"].tolist() == pytest.approx([12.0, 5.0])
    assert by_iecs["device"].tolist() == ["A", "B"]


def test_equal_scores_share_the_better_rank():
    assert scores.pcs(planted(), {"A": 6.0, "B": 4.0})["rank"].tolist() == [1, 1]


def test_missing_workloads_are_skipped_and_counted():
    table = planted(power_w=[2.0, 4.0, 1.0, np.nan]).drop(index=1)
    found = scores.pcs(table, {"A": 4.0, "B": 4.0})
    assert found["pcs"].tolist() == [50.0, 75.0]
    assert found[["workloads", "missing"]].to_numpy().tolist() == [[1, 1], [1, 1]]
    alone = scores.iecs(planted(energy_j=[np.nan, np.nan, 0.5, 0.5]))
    assert np.isnan(alone.loc[0, "iecs"])
    assert alone.loc[0, "rank"] is pd.NA
    assert alone["missing"].tolist() == [2, 0]


def test_published_tables_miss_two_workloads_of_one_phone(applications):
    found = scores.iecs(applications).set_index("device")
    assert found["missing"].drop("Xiaomi Redmi Note8").eq(0).all()
    assert found.loc["Xiaomi Redmi Note8", "missing"] == 2


def test_weights_shift_the_scores():
    weights = pd.Series([3.0, 1.0], pd.MultiIndex.from_tuples([("n1", "CPU1"), ("n2", "CPU1")]))
    by_pcs = scores.pcs(planted(), {"A": 10.0, "B": 10.0}, weights=weights)
    assert by_pcs["pcs"].tolist() == pytest.approx([75.0, 85.0])
    by_iecs = scores.iecs(planted(), weights=weights)
    assert by_iecs["iecs"].tolist() == pytest.approx([1.5 * 2 + 0.5 * 10, 1.5 * 4 + 0.5 * 1])
    with pytest.raises(EdgeError, match="every workload: n2 on CPU1"):
        scores.iecs(planted(), weights=weights.iloc[:1])


@pytest.mark.parametrize("column", ["boundary", "idle_policy"])
def test_rows_that_are_not_comparable_are_refused(column):
    values = {"boundary": ["battery", "wall"] * 2, "idle_policy": ["none", "constant"] * 2}
    table = planted(**{column: values[column]})
    with pytest.raises(EdgeError, match=f"mix {column} .*not comparable"):
        scores.iecs(table)
    with pytest.raises(EdgeError, match="not comparable"):
        scores.pcs(table, {"A": 10.0, "B": 10.0})
    assert len(scores.iecs(table, across_boundaries=True)) == 2


@pytest.mark.parametrize(
    ("tdp", "message"),
    [
        ({"A": 10.0}, r"no TDP \(W\) for B; given for: A"),
        ({}, "for A, B; given for: none"),
        ({"A": 10.0, "B": np.nan}, "for B; given for: A"),
        ({"A": 10.0, "B": 0.0}, "TDP of B should be above 0 W, not 0"),
    ],
)
def test_a_device_without_tdp_is_named(tdp, message):
    with pytest.raises(EdgeError, match=message):
        scores.pcs(planted(), tdp)


def test_a_workload_counts_once():
    with pytest.raises(EdgeError, match="A has n1 on CPU1 more than once"):
        scores.iecs(planted(name="n1"))


def test_an_empty_table_is_refused():
    with pytest.raises(EdgeError, match="no row with energy_j"):
        scores.iecs(planted().iloc[:0])


def test_implied_tdp_finds_a_planted_order_and_says_when_there_is_none():
    truth = pd.Series([12.0, 6.0, 8.0, 6.0], list("ABCD"))
    mean_w = pd.Series([3.0, 2.0, 5.0, 4.0], list("ABCD"))
    published = (100 * (1 - mean_w / truth)).round()
    printed = pd.Series(sorted(truth), list("ABCD"))
    orders = scores.implied_tdp(mean_w, published, printed)
    assert orders.to_dict("records") == [truth.to_dict()]
    with pytest.raises(EdgeError, match=r"no order of the TDPs 6, 6, 8, 12 W .* for A"):
        scores.implied_tdp(mean_w, published + 20, printed)
    with pytest.raises(EdgeError, match="no published PCS for D"):
        scores.implied_tdp(mean_w, published.drop("D"), printed)


def test_implied_tdp_gives_every_order_that_fits():
    both = scores.implied_tdp(*(pd.Series(x, ["A", "B"]) for x in ([0.0, 0.0], [100, 100], [5, 9])))
    assert both.to_numpy().tolist() == [[5, 9], [9, 5]]


def test_bootstrap_is_repeatable_and_certain_where_one_device_always_wins():
    table = planted(energy_j=[0.1, 0.2, 1.0, 2.0])
    tdp = {"A": 10.0, "B": 10.0}
    drawn = scores.bootstrap_scores(table, tdp, resamples=50, seed=3)
    again = scores.bootstrap_scores(table, tdp, resamples=50, seed=3)
    pd.testing.assert_frame_equal(drawn, again)
    assert len(drawn) == 100
    shares = scores.rank_shares(drawn, "iecs")
    assert shares.loc["A"].tolist() == [1.0, 0.0]
    assert shares.loc["B"].tolist() == [0.0, 1.0]


def test_bootstrap_spread_matches_the_standard_error_of_a_mean():
    rng = np.random.default_rng(5)
    power_w = rng.normal(5.0, 1.0, 400)
    table = pd.DataFrame(
        {"device": "A", "name": [f"n{i}" for i in range(400)], "processor": "CPU1"}
    ).assign(power_w=power_w, energy_j=1.0, boundary="battery", idle_policy="none")
    drawn = scores.bootstrap_scores(table, {"A": 10.0}, resamples=2000, seed=1)
    assert drawn["pcs"].std() == pytest.approx(10 * power_w.std() / np.sqrt(400), rel=0.05)


def test_bootstrap_over_networks_keeps_their_processors_together():
    table = pd.concat([planted(), planted(processor="GPU", energy_j=[0.5, 0.1, 0.25, 1.0])])
    drawn = scores.bootstrap_scores(
        table, {"A": 10.0, "B": 10.0}, resamples=40, seed=0, unit=["name"]
    )
    device = drawn.loc[drawn["device"] == "A", "iecs"]
    # n1 gives 4 per draw, n2 gives 20: with two draws only these sums can come out.
    assert set(device.round(9)) == {8.0, 24.0, 40.0}


def test_score_card_holds_both_scores_and_their_intervals(applications, devices):
    card = scores.score_card(applications, devices["tdp_w"], resamples=200, seed=0)
    assert len(card) == 8
    for name in ("pcs", "iecs"):
        assert card[name].between(card[f"{name}_low90"], card[f"{name}_high90"]).all()
        assert sorted(card[f"rank_{name}"]) == list(range(1, 9))


def test_bad_options_are_named():
    tdp = {"A": 10.0, "B": 10.0}
    with pytest.raises(EdgeError, match="resamples should be at least 1, not 0"):
        scores.bootstrap_scores(planted(), tdp, resamples=0, seed=0)
    drawn = scores.bootstrap_scores(planted(), tdp, resamples=5, seed=0)
    with pytest.raises(EdgeError, match="unknown score 'PCS'; known: pcs, iecs"):
        scores.rank_shares(drawn, "PCS")
    with pytest.raises(EdgeError, match="at least 3 devices"):
        scores.rank_correlation(pd.Series([1, 2]), pd.Series([1, 2]))
