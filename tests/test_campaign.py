"""Campaigns: plans are checked, values are recovered, nothing is lost whenever they are killed."""

import itertools
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import stand_in_adb as stand_in
import typer
import yaml
from test_runtimes import fully_connected
from typer.testing import CliRunner

from edgeutils import EdgeError, table
from edgeutils.hardware import campaign, commands, conditions, meters, runtimes
from edgeutils.hardware import store as stores
from edgeutils.hardware.campaign import median_u, tables
from edgeutils.hardware.points import CampaignPlan, points, read_plan
from edgeutils.hardware.stamps import monotonic_epoch_us
from edgeutils.hardware.trace import Marks, MeterSpec, PowerTrace
from edgeutils.networks import tflite, zoo

#: Nothing is doubted and nothing takes long.
QUICK = {
    "seconds": 0.005,
    "at_most_s": 0.005,
    "window_s": 5e-4,
    "quiet": 1.0,
    "precision": 1.0,
    "attempts": 1,
}
TINY = {"name": "tiny", "device": "test bench", "kernels": {"relu": 2, "add": 1}, **QUICK}
SMALL_ANCHOR = {"kernel_type": "relu", "hw": 4, "cin": 8, "every_s": 0.5}


def plan_of(**entries):
    return CampaignPlan(**(TINY | {"anchor": None} | entries))


# ---- plans and points -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"kernel": {}}, r"the plan has unknown kernel; use: name, device, seed"),
        ({"kernels": {"conv": 3}}, r"kernels has unknown conv; use: conv-bn-relu"),
        ({"kernels": {"relu": 0}}, "kernels: relu is 0, expected a number from 1"),
        ({"kernels": {"relu": True}}, "kernels: relu is True"),
        ({"networks": {"resnet": 3}}, r"networks has unknown resnet; use: alexnet"),
        ({"networks": 3}, "networks is 3, expected family: number, or a list"),
        ({"networks": ["resnet17"]}, "no network of the zoo is called 'resnet17'"),
        ({"models": "a.tflite"}, "models is 'a.tflite', expected a list of names"),
        ({"models": ["none.tflite"]}, "none.tflite does not exist"),
        ({"kernels": {}}, "names no workload; give kernels, networks"),
        ({"settings": {"thread": [1]}}, "settings has unknown thread; use: runtime, threads"),
        ({"settings": {"threads": [0]}}, r"settings: threads is \[0\], expected a list of whole"),
        ({"settings": {"threads": []}}, r"threads is \[\]"),
        ({"settings": {"dtypes": ["int4"]}}, r"dtypes is \['int4'\], .* float32, int8"),
        ({"settings": {"runtime": ["android"]}}, "android needs android: {binary: PATH"),
        (
            {"settings": {"processors": ["GPU"]}},
            "GPU and NNAPI need runtime: .android. or .torch. alone; split",
        ),
        ({"again": 2}, "again is 2, expected a number from 0 to 1"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"attempts": 1.5}, "attempts is 1.5, expected a whole number from 1 to 20"),
        ({"quiet": "very"}, "quiet is 'very', expected a number"),
        ({"meter": 3}, "meter is 3, expected a name that edgeutils doctor lists"),
        ({"anchor": {"hw": 3}}, "anchor names no kernel"),
        ({"anchor": {"kernel_type": "relu", "hw": 3}}, "a relu kernel needs cin"),
        ({"anchor": SMALL_ANCHOR | {"every_s": 0}}, "every_s is 0, expected a number of seconds"),
        ({"name": "a/b"}, "name is 'a/b', expected letters"),
        ({"name": None}, "name is None"),
    ],
    ids=itertools.count(),
)
def test_a_bad_plan_is_one_sentence(tmp_path, entries, message):
    path = tmp_path / "plan.yml"
    path.write_text(yaml.safe_dump(TINY | entries))
    with pytest.raises(EdgeError, match=message) as caught:
        points(read_plan(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is no YAML"),
        ("- 1", r"the plan is \[1\], expected entries NAME: VALUE"),
        ("", "the plan is None"),
        ("name: x", "has no device; add it"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_plan(tmp_path, text, message):
    path = tmp_path / "plan.yml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(EdgeError, match=message):
        read_plan(path)


def test_the_command_line_wins(tmp_path):
    path = tmp_path / "plan.yml"
    path.write_text(yaml.safe_dump(TINY | {"settings": {"threads": [2]}}))
    plan = read_plan(path, runtime="tflite-runtime", meter="nvml:0")
    assert plan.settings["runtime"] == ["tflite-runtime"]
    assert (plan.settings["threads"], plan.meter) == ([2], "nvml:0")
    with pytest.raises(EdgeError, match=r"settings: runtime is \['onnx'\]"):
        read_plan(path, runtime="onnx")


def test_points_are_a_cross_product_in_an_order_of_their_own():
    settings = {"runtime": ["litert", "tflite-runtime"], "threads": [1, 2]}
    settings |= {"dtypes": ["float32", "int8"]}
    networks = ["mobilenet-v1-0.25-128"]
    plan = plan_of(settings=settings, networks=networks, again=0.25)
    found = points(plan)
    assert len(found) == 4 * 2 * 2 * 2 * 1.25
    keys = [point.key for point in found]
    assert len(set(keys)) == len(keys)
    assert keys == [point.key for point in points(plan)]
    other = [point.key for point in points(replace(plan, seed=0, again=0.0))]
    assert set(other) < set(keys)
    shuffled = [point.key for point in points(replace(plan, kernels={}, seed=1))]
    ordered = [point.key for point in points(replace(plan, kernels={}, seed=2))]
    assert shuffled != ordered
    again = [point for point in found if point.repeat]
    assert len(again) == 8
    assert {replace(point, repeat=0).key for point in again} < set(keys)
    # One fold holds a workload, whatever it runs on and as which number type.
    (group,) = {point.group for point in found if point.level == "network"}
    assert group == networks[0]
    assert len({point.group for point in found if point.level == "kernel"}) == 3


def test_kernels_of_a_network_are_each_measured_once():
    plan = plan_of(kernels={"relu": 3}, kernels_of=["mobilenet-v1-0.25-128"])
    kernels = [point.kernel() for point in points(plan)]
    assert len(kernels) == len(set(kernels))
    kinds = [kernel.kernel_type for kernel in kernels]
    assert (kinds.count("relu"), kinds.count("fc"), kinds.count("global-avgpool")) == (3, 1, 1)


def test_kernels_of_a_file_are_measured_in_the_number_types_of_the_plan(tmp_path):
    graph = zoo.network("mobilenet-v1-0.25-128")
    tflite.write(graph, tmp_path / "mine.tflite")
    (tmp_path / "plan.yml").write_text(
        "name: a\ndevice: b\nsettings: {dtypes: [int8]}\nkernels_of: [mine.tflite]\n"
    )
    found = {point.kernel() for point in points(read_plan(tmp_path / "plan.yml"))}
    assert found == {replace(kernel, dtype="int8") for kernel in graph.kernels}
    with pytest.raises(EdgeError, match=r"gone\.tflite does not exist"):
        points(plan_of(kernels_of=[str(tmp_path / "gone.tflite")]))


# ---- one value --------------------------------------------------------------------------------


def test_the_interval_of_the_median_holds_it():
    rng = np.random.default_rng(3)
    for n in (4, 6, 30):
        held = 0
        for values in rng.lognormal(sigma=0.3, size=(600, n)):
            median, u = median_u(values)
            # The order statistics' interval is not centred; its half-width is what is given.
            held += abs(median - 1.0) <= 1.96 * u
        assert held / 600 > 0.9
    assert np.isnan(median_u(np.ones(1))[1])


def test_windows_last_as_long_as_asked(tmp_path):
    path = tmp_path / "tiny.tflite"
    path.write_bytes(fully_connected(np.ones((64, 64), dtype=np.float32)))
    run = runtimes.run(path, seconds=0.1, window_s=0.005, warmup_s=0.02)
    lasted_s = run.marks.end_s - run.marks.start_s
    assert np.median(lasted_s) > 0.003  # a machine may get faster after the warm-up
    assert len(set(run.marks.count)) == 1
    assert run.marks.count[0] > 100
    for options, message in [
        ({"inferences": 3, "window_s": 1.0}, "window_s is 1.0, expected a time above 0, with sec"),
        ({"seconds": 3, "window_s": 0.0}, "window_s is 0.0"),
        ({"seconds": 3, "window_s": 1.0, "warmup": 0}, "found in the warm-up, but warmup is 0"),
        ({"warmup_s": -1.0}, "warmup_s is -1.0, expected a time of 0 or more"),
    ]:
        with pytest.raises(EdgeError, match=message):
            runtimes.run(path, **options)


class FakeRuntime:
    """Runs whose latencies are planted: `spread` and `latency_s` by the number of the run."""

    def __init__(self, latency_s=1e-3, spread=lambda number: 0.0, fails=lambda number: False):
        self.latency_s, self.spread, self.fails, self.asked = latency_s, spread, fails, []

    def __call__(self, path, *, seconds, **how):
        number = len(self.asked)
        self.asked.append(seconds)
        if self.fails(number):
            raise EdgeError("it fell over")
        rng, n = np.random.default_rng(number), max(round(seconds / 0.01), 1)
        each_s = self.latency_s * np.exp(self.spread(number) * rng.standard_normal(n))
        edges_s = np.cumsum(np.hstack([0, 10 * each_s]))
        marks = Marks(edges_s[:-1], edges_s[1:], np.full(n, 10), name=("m",) * n)
        how = marks, "litert", "9", "m.tflite", "0" * 64, runtimes.Plan(), "none", {}
        return runtimes.Run(*how)


def measured(monkeypatch, folder, fake, **entries):
    monkeypatch.setattr(campaign.runtimes, "run", fake)
    entries = {
        "kernels": {"relu": 1},
        "seconds": 0.15,
        "at_most_s": 2.0,
        "precision": 0.02,
    } | entries
    return campaign.run(plan_of(**entries), folder)


def test_a_narrow_point_is_run_once_and_recovered(monkeypatch, tmp_path):
    fake = FakeRuntime(spread=lambda number: 0.01)
    (best,) = measured(monkeypatch, tmp_path, fake)
    assert fake.asked == [0.15]
    assert best.result["latency_s"] == pytest.approx(1e-3, rel=0.02)
    assert best.result["repeats"] == len(best.result["latencies_ns"]) == 15
    assert best.result["flags"] == []


def test_a_wide_point_is_run_longer_and_pooled(monkeypatch, tmp_path):
    fake = FakeRuntime(spread=lambda number: 0.05)
    (best,) = measured(monkeypatch, tmp_path, fake)
    assert len(fake.asked) > 1
    assert fake.asked[1] >= 0.15
    assert sum(fake.asked) <= 2.0 + 0.15
    assert best.result["repeats"] == sum(round(s / 0.01) for s in fake.asked)
    assert len(best.result["latencies_ns"]) == 50 or best.result["repeats"] < 50
    assert best.result["width"] <= 0.02


def test_what_stays_wide_is_flagged_and_retried_and_the_best_is_kept(monkeypatch, tmp_path):
    # Every attempt has two runs; those of the second attempt are narrow.
    fake = FakeRuntime(spread=lambda number: 0.01 if number == 2 else 1.0)
    (best,) = measured(monkeypatch, tmp_path, fake, attempts=3)
    assert (best.attempts, best.result["flags"]) == (2, [])
    assert best.result["latency_s"] == pytest.approx(1e-3, rel=0.02)
    fake = FakeRuntime(spread=lambda number: 1.0)
    (best,) = measured(monkeypatch, tmp_path / "other", fake, attempts=3)
    assert (best.attempts, best.result["flags"]) == (3, ["unstable"])


def test_the_median_of_the_visits_with_the_fewest_doubts_counts(tmp_path):
    visits = [(1.0, 0.1, []), (9.0, 0.1, ["disturbed"]), (1.3, 0.1, ["mended"]), (1.1, 0.1, [])]
    with stores.Store(tmp_path, plan_of(kernels={"relu": 1}), lambda: points(plan_of())) as store:
        key, *_ = store.points()
        for attempt, (latency_s, u_s, flags) in enumerate(visits, 1):
            told = {"latency_s": latency_s, "latency_u": u_s, "energy_j": 2 * latency_s}
            store.add(key, attempt, told | {"started_s": 0.0, "width": latency_s, "flags": flags})
        (best,) = store.best()
    found = best.result
    assert (best.attempts, found["visits"], found["flags"]) == (4, 3, [])
    assert (found["latency_s"], found["energy_j"]) == (1.1, 2.2)
    assert found["spread"] == pytest.approx(0.3)
    between = np.var([1.0, 1.3, 1.1], ddof=1)
    assert found["latency_u"] == pytest.approx(np.sqrt((0.01 + between) / 3))
    assert found["width"] == 1.0


def test_every_point_is_visited_as_often_as_the_plan_says_and_more_visits_can_be_added(
    monkeypatch, tmp_path
):
    best = measured(monkeypatch, tmp_path, FakeRuntime(), kernels={"relu": 2}, visits=2)
    assert [each.attempts for each in best] == [2, 2]
    best = measured(monkeypatch, tmp_path, FakeRuntime(), kernels={"relu": 2}, visits=3)
    assert [each.result["visits"] for each in best] == [3, 3]
    with pytest.raises(EdgeError, match="another plan, which differs in seed"):
        measured(monkeypatch, tmp_path, FakeRuntime(), kernels={"relu": 2}, seed=5)


def test_disturbed_points_are_retried(monkeypatch, tmp_path):
    # The look before the first point, then one for each attempt: the second is quiet, but was not
    # known to be when it began, as waiting is not allowed.
    shares = iter([0.0, 0.4, 0.0, 0.0])
    monkeypatch.setattr(campaign.OtherWork, "share", lambda self: next(shares))
    entries = {"quiet": 0.05, "attempts": 3, "wait_s": 0.0}
    (best,) = measured(monkeypatch, tmp_path, FakeRuntime(), **entries)
    assert (best.attempts, best.result["flags"]) == (3, [])
    with stores.closing(stores._connect(tmp_path)) as db:
        flags = [json.loads(row[0])["flags"] for row in db.execute("SELECT result FROM results")]
    assert flags == [["disturbed"], ["busy"], []]


def test_a_failure_is_a_row_and_the_campaign_goes_on(monkeypatch, tmp_path):
    fake = FakeRuntime(fails=lambda number: number in (0, 3))
    best = measured(monkeypatch, tmp_path, fake, kernels={"relu": 3}, attempts=2)
    assert ["failed" in each.result["flags"] for each in best] == [True, False, False]
    rows, how = tables(tmp_path)
    assert rows["latency_s"].isna().tolist() == [True, False, False]
    assert rows.loc[0, "flags"] == "failed"
    assert how["reason"].tolist()[0] == "it fell over"
    assert how["attempts"].tolist() == [2, 1, 1]


def test_drift_between_neighbouring_anchors(tmp_path):
    plan = plan_of(kernels={"relu": 4})
    found = {"latency_s": 1.0, "flags": []}
    with stores.Store(tmp_path, plan, lambda: points(plan)) as store:
        for at_s, latency_s in [(0, 1.0), (10, 1.02), (20, 1.2)]:
            store.add_anchor(float(at_s), latency_s)
        for key, at_s in zip(store.points(), (5.0, 15.0, 25.0, 18.0), strict=True):
            store.add(key, 1, found | {"started_s": at_s})
        best = store.best()
    drifts = [each.result["flags"] for each in best]
    assert drifts == [[], ["drift"], [], ["drift"]]
    ratio = [each.result["anchor_ratio"] for each in best]
    np.testing.assert_allclose(ratio, [1.01 / 1.02, 1.11 / 1.02, 1.2 / 1.02, 1.164 / 1.02])


def test_points_that_drifted_are_in_doubt_in_what_the_round_says(monkeypatch, tmp_path, capsys):
    fake = FakeRuntime()
    fake.fails = lambda number: setattr(fake, "latency_s", 1e-3 if number < 2 else 1.3e-3)
    anchor = {"kernel_type": "relu", "hw": 7, "cin": 8, "every_s": 1000.0}
    entries = {"kernels": {"relu": 3}, "anchor": anchor, "attempts": 1}
    best = measured(monkeypatch, tmp_path, fake, **entries)
    assert [each.result["flags"] for each in best] == [["drift"]] * 3
    assert "3 points, 3 in doubt," in capsys.readouterr().err


# ---- calm -------------------------------------------------------------------------------------


def test_waiting_for_a_cool_and_quiet_machine_ends(monkeypatch):
    heat_c = iter([80.0, 70.0, 50.0])
    monkeypatch.setattr(conditions, "temperature_c", lambda: next(heat_c))
    monkeypatch.setattr(conditions, "_LOOK_S", 0.01)
    monkeypatch.setattr(conditions.OtherWork, "share", lambda self: 0.0)
    limits = {"quiet": 0.05, "cool_below_c": 60.0}
    assert conditions.settle(0.5, **limits, wait_s=5.0)[1] == ()
    monkeypatch.setattr(conditions, "temperature_c", lambda: 80.0)
    monkeypatch.setattr(conditions.OtherWork, "share", lambda self: 0.3)
    waited_s, flags = conditions.settle(0.5, **limits, wait_s=0.05)
    assert flags == ("hot", "busy")
    assert 0.05 <= waited_s < 2
    # No sensor: nothing to wait for.
    monkeypatch.setattr(conditions, "temperature_c", lambda: None)
    assert conditions.settle(0.0, **limits, wait_s=5.0)[1] == ()


def test_work_of_others_is_told_from_our_own(monkeypatch):
    # Busy, in all and our own: in a second of two processors others took 0.5 s, we 0.4 s.
    seconds = iter([(10.0, 100.0, 4.0), (10.9, 102.0, 4.4)])
    monkeypatch.setattr(conditions, "_seconds", lambda: next(seconds))
    assert conditions.OtherWork().share() == pytest.approx(0.25)


def test_our_own_children_are_not_others():
    before = conditions._seconds()
    code = "import time\nwhile time.process_time() < 0.3: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    busy_s, all_s, own_s = np.subtract(conditions._seconds(), before)
    assert own_s >= 0.3
    assert all_s > 0
    assert busy_s >= 0.2


# ---- whole campaigns --------------------------------------------------------------------------


def test_a_campaign_gives_a_table_and_is_not_run_twice(tmp_path):
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"\x1c\x00\x00\x00TFL3" + b"\xff" * 64)
    good = tmp_path / "good.tflite"
    good.write_bytes(fully_connected(np.ones((64, 64), dtype=np.float32)))
    entries = {"kernels": {"relu": 1}, "models": [str(broken), str(good)]}
    entries |= {"networks": ["mobilenet-v1-0.25-128"], "anchor": SMALL_ANCHOR, "again": 0.2}
    plan = plan_of(**entries, settings={"dtypes": ["float32", "int8"]})
    best = campaign.run(plan, tmp_path / "store")
    rows, how = tables(tmp_path / "store")
    assert len(rows) == len(how) == len(best) == 7
    written = table.read_table(tmp_path / "store" / "measurements.parquet")
    assert written.equals(rows)
    assert how["key"].tolist() == [point.key for point in points(plan)]
    assert rows["name"].is_unique
    of = rows.set_index("name").loc
    failed, worked = (
        next(name for name in rows["name"] if name.startswith(stem))
        for stem in ("broken-", "good-")
    )
    assert "failed" in of[failed]["flags"].split()
    assert np.isnan(of[failed]["latency_s"])
    others = rows[rows["name"] != failed]
    assert (others["latency_s"] > 0).all()
    assert (others["latency_u"] > 0).all()
    assert set(rows["processor"]) == {"CPU1"}
    assert set(rows["boundary"]) == {"none"}
    assert rows["energy_j"].isna().all()
    assert of["mobilenet-v1-0.25-128-int8"]["macs"] == pytest.approx(13.5e6, rel=0.1)
    assert of[worked]["macs"] == 64 * 64
    assert (of[worked]["level"], of[worked]["dtype"]) == ("network", "float32")
    relu = rows[rows["level"] == "kernel"]
    assert (relu["input_bytes"] > 0).all()
    assert set(relu["kernel_type"]) == {"relu"}
    assert how["started"].is_monotonic_increasing
    assert {"python", "load1", "cpu", "anchor_ratio"} <= set(how.columns)
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == [
        "campaign.sqlite", "conditions.parquet", "lock", "measurements.parquet",
    ]  # fmt: skip
    assert [b.result for b in campaign.run(plan, tmp_path / "store")] == [b.result for b in best]
    with pytest.raises(EdgeError, match=r"another plan, which differs in seed, seconds; give that"):
        campaign.run(replace(plan, seconds=0.01, seed=2), tmp_path / "store")


def test_no_store_and_nothing_measured(tmp_path):
    with pytest.raises(EdgeError, match="holds no campaign; give the folder"):
        tables(tmp_path)
    (tmp_path / "campaign.sqlite").write_text("no database, and long enough to tell that")
    for opened in (lambda: tables(tmp_path), lambda: campaign.run(plan_of(), tmp_path)):
        with pytest.raises(EdgeError, match="is no store of a campaign"):
            opened()
    with stores.Store(tmp_path / "new", plan_of(), list), pytest.raises(EdgeError, match="nothing"):
        tables(tmp_path / "new")


def test_two_campaigns_do_not_share_a_store(tmp_path):
    used = pytest.raises(EdgeError, match="another campaign is running in")
    with stores.Store(tmp_path, plan_of(), list), used:
        campaign.run(plan_of(), tmp_path)


@pytest.mark.parametrize("counter", [True, False], ids=["counter", "gauge"])
def test_energy_with_a_meter(tmp_path, counter):
    """A replayed trace of 2.5 W: an inference takes 2.5 J for each second."""
    time_s = np.arange(0, 40, 0.002)
    power_w = 2.5 + 0.01 * np.random.default_rng(0).standard_normal(time_s.size)

    def open_meter(name):
        assert name == "replayed"
        now_us = monotonic_epoch_us() + time.monotonic_ns() // 1000
        spec = MeterSpec("bench", gain_u=0.01)
        trace = PowerTrace(time_s, power_w, spec, now_us, boundary="board_supply")
        return meters.Replay(trace, counter=counter)

    plan = plan_of(kernels={"relu": 1}, meter="replayed", seconds=0.3, hertz=200.0)
    (best,) = campaign.run(plan, tmp_path, open_meter=open_meter)
    rows, _ = tables(tmp_path)
    row = rows.iloc[0]
    assert row["power_w"] == pytest.approx(2.5, rel=0.02)
    # The latency is the median of the windows: where others disturb them, the mean is longer.
    assert row["energy_j"] > 0.95 * 2.5 * best.result["latency_s"]
    assert row["energy_u"] >= 0.01 * row["energy_j"]
    assert (row["boundary"], row["idle_policy"]) == ("board_supply", "none")
    kept = sorted(path.name for path in (tmp_path / "traces").iterdir())
    assert kept == [f"{best.key}-1.csv.gz", f"{best.key}-1.marks.csv"]


def test_a_phone(tmp_path, monkeypatch):
    shell = next(found for name in ("mksh", "bash", "dash") if (found := shutil.which(name)))
    binary = tmp_path / "benchmark_model"
    binary.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00")
    monkeypatch.setenv("STAND_IN_PHONE", str(tmp_path / "phone"))
    adb = stand_in.make_phone(tmp_path / "phone", shell, steps=stand_in.CPU)
    settings = {"runtime": ["android"], "processors": ["CPU"], "threads": [4]}
    how = {"adb": adb, "binary": str(binary)}
    plan = plan_of(kernels={"relu": 1}, settings=settings, android=how)
    (best,) = campaign.run(plan, tmp_path / "store")
    rows, _ = tables(tmp_path / "store")
    assert best.result["latency_s"] == pytest.approx(0.3 / 50, rel=0.3)
    assert (rows.loc[0, "processor"], rows.loc[0, "runtime"]) == ("CPU4", "android")
    # A stock binary marks one window: its scatter is unknown.
    assert np.isnan(rows.loc[0, "latency_u"])
    assert "unstable" in rows.loc[0, "flags"]


def test_the_command(tmp_path):
    app = typer.Typer()
    app.command()(commands.measure)
    path = tmp_path / "plan.yml"
    path.write_text(yaml.safe_dump(TINY | {"anchor": None, "kernels": {"add": 1}}))
    done = CliRunner().invoke(app, [str(path), "--store", str(tmp_path / "store")])
    assert done.exit_code == 0, done.output
    # On a busy machine a value that is as wide as the plan allows may be in doubt.
    assert re.search("1 points, of which [01] in doubt and 0 failed", done.output)
    assert (tmp_path / "store" / "measurements.parquet").is_file()
    done = CliRunner().invoke(app, [str(path), "--store", str(tmp_path), "--runtime", "onnx"])
    assert isinstance(done.exception, EdgeError)


# ---- stopped and killed -----------------------------------------------------------------------

TWENTY = {"kernels": {"relu": 8, "add": 6, "fc": 6}, "anchor": SMALL_ANCHOR | {"every_s": 2}}


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a campaign in a process of its own."""
    started = []

    def measure():
        # A shell that runs tests in the background has interrupts ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        campaign.run(plan_of(**TWENTY), tmp_path / "store")

    def begin():
        context = multiprocessing.get_context("fork")
        started.append(context.Process(target=measure))
        started[-1].start()
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.join()


def kept(folder):
    """Every result in a store, as it is written there."""
    if not (folder / "campaign.sqlite").is_file():
        return {}
    with stores.closing(stores._connect(folder)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'results'").fetchone():
            return {}
        rows = db.execute("SELECT key, attempt, result FROM results").fetchall()
    return {(key, attempt): result for key, attempt, result in rows}


def running(process):
    """Whether it runs; one that has ended, and that no one has collected yet, does not."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_killed_at_any_moment_nothing_is_lost_or_measured_twice(start, tmp_path):
    rng, folder, before = np.random.default_rng(5), tmp_path / "store", {}
    # Here too, so that the processes that are forked find the zoo's kernels made.
    expected = [point.key for point in points(plan_of(**TWENTY))]
    for _ in range(10):
        process = start()
        time.sleep(rng.uniform(0.05, 0.7))
        children = psutil.Process(process.pid).children()
        process.kill()
        process.join()
        # What it had started ends with it.
        until = time.monotonic() + 5
        while any(map(running, children)) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(map(running, children))
        now = kept(folder)
        assert before.items() <= now.items()
        before = now
    process = start()
    process.join()
    assert process.exitcode == 0
    now = kept(folder)
    assert before.items() <= now.items()
    rows, how = tables(folder)
    assert how["key"].tolist() == expected
    assert sorted(now) == sorted((key, 1) for key in expected)
    assert table.read_table(folder / "measurements.parquet").equals(rows)


def test_a_campaign_that_is_interrupted_leaves_its_tables(start, tmp_path):
    process, folder = start(), tmp_path / "store"
    until = time.monotonic() + 20
    while len(kept(folder)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    process.join(10)
    assert process.exitcode == 1
    rows = table.read_table(folder / "measurements.parquet")
    assert 2 <= len(rows) < 20
    assert len(rows) == len(kept(folder))
