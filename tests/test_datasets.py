"""What the loaders make of each format, its faults planted; and of the real sets, if at hand."""

import json
import re
import zipfile

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from edgeutils import ROOT, EdgeError, datasets
from edgeutils.datasets import (
    commands,
    deepen,
    measured,
    mlperf,
    nas,
    neurstruc,
    platformx,
    published,
)
from edgeutils.datasets.registry import registry
from edgeutils.networks import zoo
from edgeutils.networks.kernels import KERNEL_TYPES

TABLES = [entry.name for entry in datasets.status() if entry.kind == "table"]


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


# --- published figures --------------------------------------------------------------------


def test_applications_are_as_printed_and_doubts_are_flagged():
    table = datasets.load("paper-applications")
    assert len(table) == 280
    assert table["energy_j"].isna().sum() == 2
    assert set(table.loc[table["energy_j"].isna(), "flags"]) == {"empty-cell"}
    cell = table.set_index(["name", "processor", "device"]).loc["DNN1", "CPU1", "OnePlus 8 Pro"]
    assert (cell["energy_j"], cell["power_w"], cell["threads"]) == (0.3209, 4.7495, 1)
    assert cell["latency_s"] is pd.NA or np.isnan(cell["latency_s"])
    typos = pd.read_csv(published.PUBLISHED / "suspected_typos.csv")
    for row in typos.itertuples():
        printed = table[
            (table["name"] == row.dnn)
            & (table["processor"] == row.processor)
            & (table["device"] == row.device)
        ].iloc[0]
        assert printed["power_w" if row.table == "power" else "energy_j"] == row.printed
        assert printed["flags"] == row.flag


def test_systems_become_board_processor_and_runtime():
    assert published.parse_system("xavier-power.2-fan.cool-armnn-v21.05-neon") == {
        "device": "Xavier",
        "processor": "CPU",
        "runtime": "Arm NN 21.05 neon, power mode 2, fan cool",
    }
    with pytest.raises(EdgeError, match="toaster"):
        published.parse_system("toaster-tflite-v2.4.1-ruy")


def test_non_quantised_is_not_read_as_quantised():
    table = datasets.load("mlperf-inference-power").set_index("name")["dtype"]
    assert set(table["mobilenet-v1-1.0-224-non-quantized"]) == {"float32"}
    assert set(table["mobilenet-v1-1.0-224-quantized"]) == {"uint8"}
    assert set(table["mobilenet-v3-large_224_1.0_uint8"]) == {"uint8"}


def test_network_table_knows_the_work_of_every_network():
    table = datasets.network_table()
    assert len(table) == 1251
    assert table[["macs", "params", "energy_j", "latency_s", "accuracy"]].notna().all(axis=None)
    # Howard et al. (2017), table 8: 569 million multiply-adds.
    macs = table.loc[table["name"] == "mobilenet-v1-1.0-224-quantized", "macs"].iloc[0]
    assert macs == pytest.approx(569e6, rel=0.005)
    assert not table.duplicated(["device", "runtime", "name"]).any()


def test_choose_lists_what_is_valid():
    table = datasets.load("paper-applications")
    assert len(datasets.choose(table, "device", "Huawei P40 Pro")) == 35
    with pytest.raises(EdgeError, match=r"unknown device 'nonsense'.*Huawei P40 Pro"):
        datasets.choose(table, "device", "nonsense")


# --- formats, with their faults planted ---------------------------------------------------


def deepen_folder(root):
    values = {
        "GOOD01": ("2.0", "2000.0", "1.0"),
        "SECOND": ("20.0", "2000.0", "0.010"),
        "ZERO01": ("0.7", "2000.0", "0.0"),
        "MEGA01": ("42.0", "2100000.0", "0.02"),
        "TINY01": ("0.003", "600.0", "0.005"),
    }
    for i, quantity in enumerate(("energy", "power", "latency")):
        content = {"conv-bn-relu": {key: {quantity: v[i]} for key, v in values.items()}}
        if quantity:
            content["concat"] = {"CONCAT": {quantity: ("1.0", "1000.0", "1.0")[i]}}
            content["maxpool"] = {"POOL01": {quantity: ("1.0", "1000.0", "1.0")[i]}}
        write(root / f"Kernel_{quantity}" / f"x_{quantity}.json", content)
    conv = {"HW": 28, "CIN": 16, "COUT": 32, "KERNEL_SIZE": 3, "STRIDES": 1}
    pool = {"HW": 28, "CIN": 16, "KERNEL_SIZE": 3, "STRIDES": 1, "POOL_STRIDES": 2}
    two = {"HW": 14, "CIN1": 8, "CIN2": 4, "CIN3": 0, "CIN4": 0}
    with zipfile.ZipFile(root / "kernel_config.zip", "w") as archive:
        for kind, key, config in (
            ("conv-bn-relu", "GOOD01", conv),
            ("maxpool", "POOL01", pool),
            ("concat", "CONCAT", two),
        ):
            content = {kind: {key: {"config": config}}}
            archive.writestr(f"results/{kind}.json", json.dumps(content))
        archive.writestr("__MACOSX/results/._conv.json", b"\x00\xff not json")
    return {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}


def test_deepen_repairs_and_counts_what_was_planted(tmp_path):
    table, defects = deepen.load_deepen(deepen_folder(tmp_path))
    rows = table.set_index("name")
    assert rows.loc["GOOD01", ["energy_j", "power_w", "latency_s"]].tolist() == [2e-3, 2.0, 1e-3]
    assert rows.loc["SECOND", "latency_s"] == 0.010
    assert rows.loc["SECOND", "latency_u"] == pytest.approx(1e-3 / 12**0.5)
    assert np.isnan(rows.loc["ZERO01", "latency_s"])
    assert rows.loc["ZERO01", "energy_j"] == 0.7e-3
    assert rows.loc["MEGA01", ["energy_j", "power_w", "latency_s"]].isna().all()
    assert rows.loc["MEGA01", "flags"] == "corrupt"
    assert rows.loc["TINY01", "flags"] == "coarse-rounding"
    assert rows.loc["POOL01", "stride"] == 2
    assert rows.loc["CONCAT", ["cin1", "cin2"]].tolist() == [8, 4]
    assert rows.loc["CONCAT", ["cin3", "cin4"]].isna().all()
    assert list(defects.values()) == [1, 1, 1, 1, 4]


def test_same_configuration_is_one_group_and_nonsense_is_named(tmp_path):
    config = {"config": {"HW": 7, "CIN": 8, "COUT": 8, "KERNEL_SIZE": 1, "STRIDES": 1}}
    other = {"config": {**config["config"], "CIN": 9}}
    kinds = {"A": config, "B": config, "C": other}
    energy = {"conv-bn-relu": {key: {"energy": "0.5"} for key in kinds}}
    files = {
        "p/conv_energy_GPU.json": write(tmp_path / "e.json", energy),
        "p/conv_GPU.json": write(tmp_path / "c.json", {"conv-bn-relu": kinds}),
    }
    table, defects = deepen.load_conv(files)
    group = table.set_index("name")["group"]
    assert group["A"] == group["B"] != group["C"]
    assert set(table["processor"]) == {"GPU"}
    assert list(defects.values()) == [2]
    write(tmp_path / "e.json", {"conv-bn-relu": {"A": {"power": "1"}}})
    with pytest.raises(EdgeError, match=r"e\.json: expected JSON"):
        deepen.load_conv(files)


CONV = "1.0,8.0,9.0,9.0,1.0,16.0,9.0,9.0,8.0,16.0,3.0,3.0,1.0,1.0,1.0,1.0,1.0,1.0,1.0"
DEPTHWISE = "1,8,9,9,1,8,9,9,8,8,3,3,1,1,1,1,1,1,8"


def test_neurstruc_kernels_leave_broken_rows_out(tmp_path):
    head = "data mean_power time forward_num energy silence_energy all_energy\n"
    body = f"{CONV} 5.0 4.0 1000 0.01 0.006 0.016\n0 0 0 0 0 0 0\n"
    body += f"{DEPTHWISE} 3 4 2000 .002 .003 .005\n"
    files = {"data/conv2d.txt": write(tmp_path / "conv2d.txt", head + body)}
    table, defects = neurstruc.load_kernels(files)
    assert table["name"].tolist() == ["conv2d-1", "conv2d-3"]
    assert table["kernel_type"].tolist() == ["conv-bn-relu", "dwconv-bn-relu"]
    assert table.loc[0, ["latency_s", "energy_j", "power_w", "repeats"]].tolist() == [
        0.004,
        0.016,
        5.0,
        1000,
    ]
    assert list(defects.values()) == [1, 0]


def test_neurstruc_networks_average_three_measurements(tmp_path):
    head = "name layer_parameters layer_link layer_id all_energy\n"
    layers = f"{CONV},1,5,5,5,5,1,1296,1,10"
    files = {}
    for k, energy in enumerate((1.0, 2.0, 3.0)):
        text = f"{head}MobileNetV3-SMALL {layers} 0 1,16,21 {energy}\n"
        files[f"t{k}"] = write(tmp_path / f"t{k}.txt", text)
    row = neurstruc.load_networks(files)[0].iloc[0]
    assert (row["energy_j"], row["energy_std"], row["repeats"]) == (2.0, 1.0, 3)
    assert row["macs"] == 81 * 9 * 8 * 16 + 1296 * 10
    assert row["family"] == "mobilenet-v3"
    write(tmp_path / "t0.txt", f"{head}Odd {layers},7 0 1,16,21 1.0\n")
    with pytest.raises(EdgeError, match="layers of Odd do not add up"):
        neurstruc.load_networks(files)


def test_nas_flags_copies_and_implausible_power(tmp_path):
    raw = pd.DataFrame(
        {
            "arch_idx": [0, 1, 2, 3],
            "rep_arch_idx": [0, 0, 2, 3],
            "device": ["pi5", "pi5", "pi5", "pixel"],
            "framework": "litert",
            "task": ["cifar100", "cifar100", "darcy", "cifar100"],
            "lat_ms_median": [2.0, 2.0, 2.0, 4.0],
            "lat_ms_var": [0.04, 0.04, 0.04, np.nan],
            "energy_mj": [3.0, 3.0, 0.2, np.nan],
            "accuracy": [52.0, 52.0, 0.9, 52.0],
        }
    )
    raw.to_parquet(tmp_path / "d.parquet")
    table, defects = nas.load_nas({"d": tmp_path / "d.parquet"})
    assert table["flags"].tolist() == ["", "copy", "implausible-power", ""]
    assert table["group"].tolist() == ["nb201-0", "nb201-0", "nb201-2", "nb201-3"]
    assert table["boundary"].tolist() == ["core_rail"] * 3 + ["none"]
    assert table.loc[0, ["latency_s", "latency_std", "energy_j"]].tolist() == [2e-3, 2e-4, 3e-3]
    assert table["accuracy"].tolist()[:2] == [0.52, 0.52]
    assert np.isnan(table.loc[2, "accuracy"])
    assert list(defects.values()) == [1, 1, 1, 1]


def test_pixel_rows_are_flagged_unfit(tmp_path):
    text = (
        "id,OP,energy_mJ,HW,KERNEL_SIZE,STRIDES,CIN,COUT\nconv_a.tflite,conv,3000,34,3,1,48,128\n"
    )
    path = write(tmp_path / "x.csv", text)
    table, _ = platformx.load_pixel({"prediction/energy_data/conv_source_Pixel7_cpu.csv": path})
    assert table.loc[0, ["device", "name", "energy_j", "flags"]].tolist() == [
        "Pixel 7",
        "conv_a",
        0.3,
        "unfit",
    ]


# --- MLPerf -------------------------------------------------------------------------------


def inference_run(root, model="mobilenet-v1-1.0-224-quantized", power=True):
    """Write a run of 12 s at 5 W with idle of 2 W around it, 20 ms per inference."""
    run = root / f"open/Krai/results/rpi4-tflite-v2.7.1-ruy/{model}/singlestream"
    stamp = "03-05-2021 23:59:{:02d}.500"
    spl = [
        f"Time,{stamp.format(s)},Watts,{5.0 if 10 <= s < 22 else 2.0},Volts,230,Amps,0.02,Mark,x"
        for s in range(40)
    ]
    performance = run / "performance" / "run_1"
    write(
        performance / "mlperf_log_detail.txt",
        '{"key": "power_begin", "value": "03-05-2021 23:59:10.000"}\n'
        '{"key": "power_end", "value": "03-05-2021 23:59:22.000"}\n',
    )
    summary = "Result is : VALID\nMean latency (ns)               : 20000000\n"
    write(performance / "mlperf_log_summary.txt", summary)
    write(run / "accuracy" / "accuracy.txt", "accuracy=70.500%, good=7050, total=10000\n")
    if power:
        write(performance / "spl.txt", "\n".join(spl) + "\n")
    return performance


def test_build_mlperf_recovers_planted_power_latency_and_accuracy(tmp_path):
    root = tmp_path / "inference_results_v2.1"
    inference_run(root)
    inference_run(root, "resnet50", power=False)
    figures = datasets.build_mlperf(root)
    row = figures.iloc[0]
    assert (row["round"], row["division"], row["system"]) == (
        "2.1",
        "open",
        "rpi4-tflite-v2.7.1-ruy",
    )
    assert row["power_samples"] == 12
    assert row[["mean_power_w", "mean_latency_ms", "energy_mj"]].tolist() == [5.0, 20.0, 100.0]
    assert (row["top1_accuracy_pct"], row["result_valid"]) == (70.5, "VALID")
    assert list(figures.attrs["defects"].values()) == [1]


def test_build_mlperf_names_what_is_wrong(tmp_path):
    with pytest.raises(EdgeError, match="holds no MLPerf Inference run with power"):
        datasets.build_mlperf(tmp_path)
    run = inference_run(tmp_path / "results")
    with pytest.raises(EdgeError, match="folder named after the round"):
        datasets.build_mlperf(tmp_path / "results")
    run = inference_run(tmp_path / "other" / "v1.0")
    write(run / "mlperf_log_summary.txt", "Result is : VALID\n")
    with pytest.raises(EdgeError, match=r"mlperf_log_summary\.txt: expected 'Mean latency"):
        datasets.build_mlperf(tmp_path / "other")


def tiny_run(folder, *, trace=True):
    """Write five windows of 1 s at 2 mW and 4 mW (middle window), 100 inferences each."""
    stamps = [0.004] + [t for w in range(5) for t in (1.5 + 2 * w, 2.5 + 2 * w)]
    joules = [2e-3, 2e-3, 4e-3, 2e-3, 2e-3]
    samples = np.full(12_000, 0.5, dtype="<f4")
    for w, energy_j in enumerate(joules):
        samples[1500 + 2000 * w : 2500 + 2000 * w] = energy_j * 1e6 / 1000
    report = "".join(f"1.0 ulp-ml:   Energy       : {e * 1e6:.3f} uJ\n" for e in joules)
    report += "".join(
        "2.0 ulp-ml:   # Inferences :  100\n2.0 :   Runtime  :  1.000 sec.\n" for _ in joules
    )
    write(folder / "results.txt", report)
    if trace:
        rate = np.array([1000], dtype="<f4").tobytes()
        (folder / "trace1-energy.bin").write_bytes(b"\xf1" + rate + samples.tobytes())
        write(folder / "trace1-timestamps.json", stamps)
    return folder


def test_tiny_run_gives_the_planted_energy(tmp_path):
    good = tiny_run(tmp_path / "closed/acme/results/board/kws/energy")
    tiny_run(tmp_path / "closed/acme/results/board/ic/energy", trace=False)
    windows = mlperf.tiny_windows(good)
    assert windows["energy_j"].tolist() == pytest.approx([2e-3, 2e-3, 4e-3, 2e-3, 2e-3], rel=1e-6)
    files = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*.*")}
    table, defects = mlperf.load_tiny(files)
    row = table.iloc[0]
    assert (row["device"], row["name"], row["repeats"]) == ("acme board", "kws", 5)
    assert row["energy_j"] == pytest.approx(2e-5, rel=1e-6)
    assert (row["latency_s"], row["power_w"]) == (0.01, pytest.approx(2e-3, rel=1e-6))
    assert list(defects.values()) == [1]


def test_tiny_trace_that_is_none_is_named(tmp_path):
    folder = tiny_run(tmp_path / "x", trace=False)
    with pytest.raises(EdgeError, match="has no trace"):
        mlperf.tiny_windows(folder)
    tiny_run(folder)
    (folder / "trace1-energy.bin").write_bytes(b"\x00" * 9)
    with pytest.raises(EdgeError, match="expected the byte F1"):
        mlperf.tiny_windows(folder)
    tiny_run(folder)
    write(folder / "trace1-timestamps.json", [0.0, 1.0, 2.0])
    with pytest.raises(EdgeError, match="different numbers of windows"):
        mlperf.tiny_windows(folder)


def test_tiny_json_sums_between_the_last_two_stamps(tmp_path):
    folder = tmp_path / "x"
    trial = {
        "power": {"samples": [9.0, 1.0, 2.0, 4.0], "timestamps": [["00", 0], ["a", 1], ["b", 3]]}
    }
    write(folder / "results.json", [trial])
    write(
        folder / "results.txt", "Inferences : 3\nElapsed time : 3\nTotal Energy : 3000000.000 uJ\n"
    )
    windows = mlperf.tiny_windows(folder)
    assert windows.loc[0, ["energy_j", "official_j"]].tolist() == [3.0, 3.0]
    write(folder / "results.json", [{"power": {"samples": [1.0]}}])
    with pytest.raises(EdgeError, match=r"expected power\.samples"):
        mlperf.tiny_windows(folder)


# --- the real sets ------------------------------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_rows_hashes_and_defects_of_real_sets(name, at_hand):
    at_hand(name)
    assert datasets.check(name) == []
    table = datasets.load(name)
    assert (table["dataset"] == name).all()
    key = ["device", "processor", "runtime", "name", "kernel_type"]
    assert not table.duplicated(key).any()
    assert (table["energy_j"].dropna() > 0).all()
    assert (table.loc[table["level"] == "kernel", "kernel_type"].notna()).all()


@pytest.mark.parametrize("name", ["mlperf-inference-v1.0", "mlperf-inference-v2.1"])
def test_raw_runs_give_the_committed_figures(at_hand, name):
    path, local = next(iter(at_hand(name).items()))
    figures = datasets.build_mlperf(local.as_posix().removesuffix(path))
    rows, largest = datasets.compare_with_committed(figures)
    assert rows == len(figures) > 0
    assert largest < 1e-12


@pytest.mark.parametrize("name", ["mlperf-tiny-v0.7", "mlperf-tiny-v1.2", "mlperf-tiny-v1.3"])
def test_windows_of_tiny_runs_have_the_official_energy(at_hand, name):
    seen = 0
    for local in at_hand(name).values():
        marker = local.name in ("trace1-energy.bin", "results.json")
        if not marker:
            continue
        windows = mlperf.tiny_windows(local.parent)
        error = (windows["energy_j"] / windows["official_j"] - 1).abs().max()
        assert error < (1e-12 if local.name == "results.json" else 2e-4), local
        seen += len(windows)
    assert seen > 0


def test_energy_is_power_times_latency_where_both_are_given(at_hand):
    at_hand("deepen2023")
    table = datasets.load("deepen2023")
    sound = table[(table["flags"] == "") & (table["energy_j"] > 1e-3)]
    ratio = sound["energy_j"] / (sound["power_w"] * sound["latency_s"])
    assert len(sound) > 1000
    assert (ratio - 1).abs().max() < 0.02


def test_pixel_phones_do_not_agree_with_each_other(at_hand):
    at_hand("platformx-pixel")
    table = datasets.load("platformx-pixel")
    assert table.attrs["trainable"] is False
    cpu = table[table["processor"] == "CPU"].pivot(
        index="name", columns="device", values="energy_j"
    )
    assert len(cpu.dropna()) == 2776
    assert abs(cpu.corr().iloc[0, 1]) < 0.05


# --- command line -------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(commands.app, arguments)


def test_list_is_json_and_tells_how_to_get_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGE_DATA_MIRROR", str(tmp_path))
    monkeypatch.setattr("edgeutils.datasets.registry.cache_folder", lambda: tmp_path)
    listed = {row["name"]: row for row in json.loads(invoke("list", "--json").stdout)}
    assert set(listed["deepen2023"]) == {
        "name",
        "rows",
        "licence",
        "where",
        "how_to_get",
        "defects",
    }
    assert listed["paper-applications"]["where"] == "embedded"
    assert listed["hw-nas-bench-360"]["where"] == "missing"
    assert "edgeutils data fetch hw-nas-bench-360" in listed["hw-nas-bench-360"]["how_to_get"]
    assert "survey" in listed["deepen2023"]["how_to_get"]
    assert listed["models-coral"]["rows"] is None
    assert "mlperf-inference-power" in invoke("list").stdout


def test_check_and_build_commands(tmp_path):
    done = invoke("check", "paper-applications", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)[0]["problems"] == []
    inference_run(tmp_path / "v2.1")
    out = tmp_path / "figures.csv"
    done = invoke("build", "mlperf", "--logs", str(tmp_path), "--out", str(out), "--json")
    assert json.loads(done.stdout)["rows"] == 1
    assert pd.read_csv(out).loc[0, "energy_mj"] == 100.0
    assert isinstance(invoke("build", "mlperf", "--logs", "nowhere").exception, EdgeError)


@pytest.mark.parametrize("name", TABLES)
def test_the_data_page_says_what_the_catalogue_says(name):
    page = (ROOT / "book" / "data.md").read_text(encoding="utf-8")
    entry = datasets.status(name)[0]
    facts = [entry.level, entry.boundary, entry.idle_policy, entry.source, f"{entry.rows:,}"]
    assert f"| `{name}` | {' | '.join(facts)} |" in page
    assert re.search(rf"^- {re.escape(entry.licence)}: .*`{name}`", page, re.M)
    for fault, count in entry.defects.items():
        if count and count != entry.rows:
            assert re.search(rf"(?<![\d,.]){count:,}(?![\d,])", page), (name, fault)


def test_registry_names_no_source_for_the_set_that_must_be_asked_for():
    rows = registry()
    asked = rows[rows["dataset"] == "deepen2023"]
    assert len(asked) == 49
    assert (asked["repo"] == "").all()
    assert (asked["sha256"].str.len() == 64).all()
    others = rows[rows["dataset"] != "deepen2023"]
    assert (others["commit"].str.len() == 40).all()


def test_our_own_measurements_are_times_and_nothing_else():
    table = datasets.load("litert-x86")
    assert table[["energy_j", "power_w"]].isna().all(axis=None)
    assert set(table["dtype"]) == {"float32", "int8"}
    assert set(table["processor"]) == {"CPU1", "CPU2"}
    assert not table.duplicated(["name", "processor"]).any()
    kernels = table[table["level"] == "kernel"]
    assert set(kernels["kernel_type"]) == set(KERNEL_TYPES) - {"transpose-conv"}
    assert kernels["group"].nunique() >= 1500
    assert table.loc[table["level"] == "network", "model"].nunique() == 450
    told = measured.conditions(datasets.files("litert-x86"))
    assert told["reason"].notna().sum() == table.attrs["defects"].get(
        "could not be run, left out", 0
    )
    assert told["key"].is_unique


def test_own_networks_carry_the_counts_of_the_zoo():
    nets = datasets.own_networks()
    assert not nets.duplicated(["model", "dtype", "processor"]).any()
    row = nets.iloc[0]
    graph = zoo.network(row["model"])
    assert (row["macs"], row["layers"]) == (graph.macs, len(graph.kernels))
    small = nets["dtype"] == "int8"
    assert (nets.loc[small, "weight_bytes"] < 2 * nets.loc[small, "params"]).all()
