"""PyTorch as a runtime: what it runs is the graph, and campaigns with it have energies.

Everything here runs on the CPU; no test has seen a GPU. The meter is the stand-in of `test_meters`.
"""

import itertools
import runpy
import sys
from collections import Counter
from dataclasses import replace
from functools import partial

import meter_stand_ins as stand_in
import numpy as np
import pytest
import yaml
from ai_edge_litert.interpreter import Interpreter

from edgeutils import ROOT, EdgeError
from edgeutils.hardware import campaign, doctor, runtimes
from edgeutils.hardware.meters import update_period
from edgeutils.hardware.points import CampaignPlan, points, read_plan
from edgeutils.networks import sampler, zoo
from edgeutils.networks.graph import Builder, Layer, single_kernel
from edgeutils.networks.kernels import KERNEL_TYPES, Kernel
from edgeutils.networks.tflite import to_bytes
from edgeutils.progress import Progress

torch = pytest.importorskip("torch", reason="PyTorch is optional: pip install torch")
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from edgeutils.hardware import child as worker  # noqa: E402
from edgeutils.hardware import torch_child  # noqa: E402
from edgeutils.networks.torch_network import OPERATORS, Network  # noqa: E402

torch.set_num_threads(1)
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "measure_gpu.py"))
PLAN = ROOT / "data" / "measured" / "torch-h100" / "plan.yml"
RELU = single_kernel(Kernel("relu", hw=8, cin=16))


def kernels(kind, dtype="float32"):
    drawn = sampler.sample(kind, 12, seed=5, dtype=dtype)
    return [kernel for kernel in drawn if kernel.macs < 5e7 and kernel.input_bytes < 4e6][:3]


def ran(graph):
    """Outputs of a graph as a PyTorch network, and the MACs that PyTorch counted."""
    network = Network(graph)
    with FlopCounterMode(display=False) as counter:
        outputs = network(*network.inputs)
    assert sum(each.numel() for each in network.parameters()) == graph.params
    for value, output in zip(graph.outputs, outputs, strict=True):
        height, width, channels = graph.shapes[value]
        assert output.shape == (1, channels, height, width)
        assert output.is_contiguous(memory_format=torch.channels_last)
        assert torch.isfinite(output).all()
    return outputs, counter.get_total_flops() / 2


@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_a_kernel_has_the_shapes_weights_and_macs_of_the_graph(kind):
    graphs = [single_kernel(kernel) for kernel in kernels(kind)]
    assert len(graphs) == 3
    for graph in graphs:
        assert ran(graph)[1] == graph.macs


def test_another_kernel_has_other_macs():
    kernel = Kernel("conv-bn-relu", hw=9, cin=3, cout=5, kernel_size=3, stride=2)
    assert ran(single_kernel(kernel))[1] == kernel.macs != replace(kernel, stride=1).macs


@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_a_kernel_runs_in_float16(kind):
    network = Network(single_kernel(kernels(kind, "float16")[0]))
    for output in network(*network.inputs):
        assert output.dtype == torch.float16
        assert torch.isfinite(output).all()


@pytest.mark.parametrize("family", ["densenet", "googlenet", "mobilenet-v2", "shufflenet-v2"])
def test_a_network_has_the_shapes_weights_and_macs_of_the_graph(family):
    graph = zoo.variant(family, 3)
    (output,), macs = ran(graph)
    assert macs == graph.macs
    assert output.std() > 0


@pytest.mark.parametrize(
    ("window", "stride", "padding", "dilation"),
    # Even windows whose strides differ occur nowhere.
    [
        *itertools.product([1, 2, 3, 4, (1, 5)], [1, 2, 3], ["same", "valid"], [1, 2]),
        *itertools.product([1, 3, (1, 5)], [(1, 2)], ["same", "valid"], [1]),
    ],
)
def test_windows_of_every_kind_keep_their_shapes(window, stride, padding, dilation):
    for side in (11, 12):
        net = Builder()
        image, how = net.input(side, side + 3, 4), {"stride": stride, "padding": padding}
        ends = [net.conv(image, 6, window, groups=2, dilation=dilation, **how)]
        ends += [net.maxpool(image, window, **how), net.avgpool(image, window, **how)]
        network = Network(net.graph("windows", outputs=ends))
        for value, output in zip(ends, network(*network.inputs), strict=True):
            height, width, channels = network.graph.shapes[value]
            assert output.shape == (1, channels, height, width)


def without_weights():
    """A graph of every operator that has no weights, each as an output."""
    net = Builder()
    first, second = net.input(6, 5, 8), net.input(6, 5, 8)
    minus = net.input(6, 5, 8)
    plain = ("relu", "hswish", "logistic", "leakyrelu", "softmax")
    ends = [net.same(op, value) for op in plain for value in (first, minus)]
    ends += [net.add(first, minus), net.add(first, minus, relu=True)]
    ends += [net.concat([first, second, minus]), *net.split(minus), net.global_avgpool(minus)]
    ends += [net.same("channelshuffle", first, groups=2), net.resize(first, 2)]
    ends += [net.maxpool(minus, 3), net.avgpool(first, 3), net.avgpool(first, 2, padding="valid")]
    ends += [net.maxpool(first, 2, stride=2, padding="valid"), net.reshape(first, (10, 6, 4))]
    ends += [net.matmul(first, second, (6, 5, 5))]
    return net.graph("plain", outputs=ends)


def test_what_has_no_weights_computes_what_litert_computes():
    graph, rng = without_weights(), np.random.default_rng(0)
    maps = [rng.normal(size=(1, *graph.shapes[value])).astype("f4") for value in graph.inputs]
    interpreter = Interpreter(model_content=to_bytes(graph))
    interpreter.allocate_tensors()
    for detail, values in zip(interpreter.get_input_details(), maps, strict=True):
        interpreter.set_tensor(detail["index"], values)
    interpreter.invoke()
    made = Network(graph)(*(torch.from_numpy(values).permute(0, 3, 1, 2) for values in maps))
    told = interpreter.get_output_details()
    assert len(told) == len(made) == 24
    for detail, output in zip(told, made, strict=True):
        expected = interpreter.get_tensor(detail["index"])
        np.testing.assert_allclose(output.permute(0, 2, 3, 1), expected, atol=1e-4)


def test_the_same_seed_gives_the_same_network():
    def total(seed):
        network = Network(zoo.variant("squeezenet", 1), seed=seed)
        return float(network(*network.inputs)[0].double().sum())

    assert total(1) == total(1) != total(2)


def test_what_cannot_run_is_named():
    with pytest.raises(EdgeError, match="does not run the type int8 of relu; it runs: float32, fl"):
        Network(replace(RELU, dtype="int8"))
    layers = [Layer("lstm", (0,), (1,)), Layer("einsum", (1,), (1,))]
    with pytest.raises(EdgeError, match=r"operator einsum, lstm of relu; it runs: conv-bn-relu, "):
        Network(replace(RELU, layers=tuple(layers)))
    assert set(KERNEL_TYPES) < set(OPERATORS)


# ---- runs -------------------------------------------------------------------------------------


def test_runs_are_marked_and_share_a_process():
    child = runtimes.Child()
    how = {"runtime": "torch", "child": child}
    run = runtimes.run(RELU, inferences=25, block=10, **how)
    assert run.marks.count.tolist() == [10, 10, 5]
    assert (run.latency_s > 0).all()
    assert (run.marks.start_s[1:] >= run.marks.end_s[:-1]).all()
    assert (run.runtime, run.model, run.delegate) == ("torch", "relu", "none")
    assert run.marks.same_clock
    assert run.version.startswith(torch.__version__.partition("+")[0])
    process = child._process
    with pytest.raises(EdgeError, match="does not run the type uint8"):
        runtimes.run(replace(RELU, dtype="uint8"), **how)
    assert process.poll() is not None
    run = runtimes.run(RELU, seconds=0.1, window_s=0.02, warmup_s=0.01, tail_s=0.1, **how)
    assert np.median(run.marks.end_s - run.marks.start_s) > 0.015
    process = child._process
    runtimes.run(replace(RELU, dtype="float16"), inferences=1, **how)
    assert child._process is process
    child.close()
    assert process.poll() is not None


def test_a_graph_is_for_torch_and_a_file_for_the_others(tmp_path):
    with pytest.raises(EdgeError, match=r"litert got Graph.* give a graph to torch"):
        runtimes.run(RELU)
    with pytest.raises(EdgeError, match=r"torch got 'a\.tflite'; give a graph to torch"):
        runtimes.run("a.tflite", runtime="torch")
    with pytest.raises(EdgeError, match="device is 'tpu', expected one of cpu, cuda"):
        runtimes.run(RELU, runtime="torch", device="tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_machine_without_a_gpu_says_so():
    with pytest.raises(EdgeError, match="PyTorch sees no GPU of NVIDIA; use the CPU"):
        runtimes.run(RELU, runtime="torch", device="cuda", child=False)


def test_replays_hold_many_inferences_and_all_are_counted(monkeypatch):
    """A stand-in for CUDA graphs: replays are queued, and run when they are waited for."""
    queue, done, captured = [], [], []

    def capture(once, count):
        def finish():
            while queue:
                for _ in range(queue.pop()):
                    once()
                    done.append(1)

        captured.append(count)
        return worker.Work(lambda: queue.append(count), finish, count, "cuda stand-in")

    monkeypatch.setattr(torch_child, "_captured", capture)
    monkeypatch.setattr(torch_child, "Network", lambda g, device, seed: Network(g, seed=seed))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    how = {"runtime": "torch", "device": "cuda", "child": False}
    run = runtimes.run(RELU, seconds=0.1, window_s=0.02, warmup=0, warmup_s=0.01, **how)
    assert captured[0] == 1 < captured[1] <= 256
    assert set(run.marks.count % captured[1]) == {0}
    assert sum(done) > run.marks.inferences > 0
    assert run.delegate == "cuda stand-in"
    lasted_s = run.marks.end_s - run.marks.start_s
    assert np.median(lasted_s) > 0.01
    # Without a length of the window the number of inferences is exact.
    run = runtimes.run(RELU, inferences=7, block=3, **how)
    assert run.marks.count.tolist() == [3, 3, 1]


# ---- campaigns --------------------------------------------------------------------------------

THREE = {"name": "gpu", "device": "stand-in", "kernels": {"relu": 1, "fc": 1, "add": 1}}
THREE |= {"settings": {"runtime": ["torch"]}, "meter": "nvml", "hertz": 200.0, "anchor": None}
THREE |= {"updates": 2, "windows": 3, "seconds": 0.1, "quiet": 1.0, "precision": 1.0}
THREE |= {"attempts": 1, "window_s": 0.01}


class StopAfter(Progress):
    """Progress that interrupts a campaign after some points, as Ctrl-C does."""

    def __init__(self, number):
        super().__init__()
        self.left = number

    def tell(self, text):
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1


@pytest.fixture
def gpu(monkeypatch):
    """A stand-in for NVML's counter, at whose period is looked for a short time only."""
    stand_in.nvml(monkeypatch, power_w=lambda: 80.0)
    for module in (campaign, doctor):
        monkeypatch.setattr(module, "update_period", partial(update_period, seconds=0.3))


def test_a_campaign_has_energies_and_goes_on_where_it_was_stopped(gpu, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        campaign.run(CampaignPlan(**THREE), tmp_path, progress=StopAfter(1))
    before, how_before = campaign.tables(tmp_path)
    assert len(before) == 1
    campaign.run(CampaignPlan(**THREE), tmp_path)
    rows, how = campaign.tables(tmp_path)
    assert len(rows) == 3
    assert how.loc[0, "started"] == how_before.loc[0, "started"]
    assert set(rows["boundary"]) == {"accelerator"}
    assert set(rows["kernel_type"]) == {"relu", "fc", "add"}
    assert rows["power_w"].to_numpy() == pytest.approx(80.0, rel=0.15)
    mean_s = rows["energy_j"] / rows["power_w"]
    assert mean_s.to_numpy() == pytest.approx(rows["latency_s"].to_numpy(), rel=0.5)
    for name in ("latency_u", "energy_u", "power_u"):
        assert (rows[name] > 0).all()
    assert rows["runtime"].str.startswith("torch ").all()
    assert set(rows["processor"]) == {"CPU1"}
    assert (how["temperature_c"].tolist(), how["clock_mhz"].tolist()) == ([41] * 3, [1980] * 3)
    assert not any("failed" in flags.split() for flags in rows["flags"])


@pytest.mark.parametrize(
    "entries",
    [
        {"settings": {"runtime": ["torch"], "dtypes": ["int8"]}},
        {"settings": {"runtime": ["torch"], "processors": ["NNAPI"]}},
        {"settings": {"runtime": ["litert"], "dtypes": ["float16"]}},
        {"settings": {"runtime": ["torch", "litert"], "dtypes": ["float16"]}},
    ],
)
def test_settings_that_a_runtime_does_not_have(entries):
    with pytest.raises(EdgeError, match="torch runs kernels and networks in float32 and float16"):
        CampaignPlan(**(THREE | entries))


def test_the_plan_for_the_gpu_fits_its_lease_and_half_of_it_is_useful(monkeypatch):
    plan = read_plan(PLAN)
    every = points(plan)
    once = [point for point in every if not point.repeat]
    level = [point.level for point in once]
    assert level.count("kernel") >= 600
    assert level.count("network") == 2 * 9 * 20
    assert {point.processor for point in every} == {"GPU"}
    assert {point.kernel().kernel_type for point in once if point.level == "kernel"} == set(
        KERNEL_TYPES
    )
    monkeypatch.setitem(SCRIPT["estimate"].__globals__, "points", lambda _plan: every)
    assert SCRIPT["estimate"](plan)["minutes"] < 22
    # Each kind, family and number type is spread over the whole campaign.
    half = every[: len(every) // 2]

    def counted(some):
        kinds = (p.what.get("kernel_type") or p.what["network"].rpartition("-v")[0] for p in some)
        return Counter(zip(kinds, (point.dtype for point in some), strict=True))

    number, in_half = counted(every), counted(half)
    assert len(number) == 2 * (len(KERNEL_TYPES) + 9)
    for each, n in number.items():
        assert abs(in_half[each] - n / 2) <= 1.5, each


def test_a_slice_leaves_all_that_the_next_one_needs(gpu, monkeypatch, tmp_path):
    path, out = tmp_path / "plan.yml", tmp_path / "out"
    path.write_text(yaml.safe_dump(THREE))
    monkeypatch.setitem(SCRIPT["main"].__globals__, "traces", partial(SCRIPT["traces"], rest_s=0.5))
    work = [("mobilenet-v1-0.25-128", dtype) for dtype in ("float32", "float16")]
    for name, value in {"SPARE_S": 0.0, "WORK": work}.items():
        monkeypatch.setitem(SCRIPT["main"].__globals__, name, value)
    monkeypatch.setattr(runtimes, "available", list)
    call = ["", "--plan", str(path), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*call, "--store", str(tmp_path / "a"), "--traces"])
    SCRIPT["main"]()
    assert sorted(each.name for each in out.iterdir()) == [
        "busy.csv.gz", "busy.marks.csv", "doctor.json", "idle.csv.gz", "store.tar.gz.00",
        "summary.json",
    ]  # fmt: skip
    busy = np.genfromtxt(
        out / "busy.marks.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    assert len(set(busy["name"])) == 2
    assert (np.diff(busy["start_us"]) > 0).all()
    SCRIPT["unpack"]([out / "store.tar.gz.00"], tmp_path / "b")
    assert campaign.tables(tmp_path / "b")[0].equals(campaign.tables(tmp_path / "a")[0])
