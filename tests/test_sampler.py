from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError
from edgeutils.networks import zoo
from edgeutils.networks.graph import Builder, single_kernel
from edgeutils.networks.kernels import KERNEL_TYPES, Kernel, kernel_frame
from edgeutils.networks.sampler import LIMITS, sample

CONFIG = ["hw", "cin", "cout", "kernel_size", "stride"]


def _network(*convs):
    """A graph of unconnected convolutions: (hw, cin, cout, kernel size)."""
    net = Builder()
    for hw, cin, cout, size in convs:
        net.conv(net.input(hw, hw, cin), cout, size)
    return net.graph("planted", outputs=[len(net.shapes) - 1])


@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_every_type_is_drawn_without_repeats_within_limits_and_can_be_written(kind):
    kernels = sample(kind, 300, seed=1)
    assert len(set(kernels)) == 300
    assert {kernel.kernel_type for kernel in kernels} == {kind}
    assert all(single_kernel(kernel).kernels == (kernel,) for kernel in kernels)
    work = kernel_frame(kernels)
    for column, limit in LIMITS.items():
        assert work[column].max() <= limit
    # Not a few points again and again: sizes spread.
    low, high = work["input_bytes"].quantile([0.02, 0.98])
    assert high > 5 * low


def test_the_seed_decides_and_more_points_begin_with_fewer():
    first = sample("conv-bn-relu", 40, seed=7)
    assert sample("conv-bn-relu", 400, seed=7)[:40] == first
    assert len(set(first) & set(sample("conv-bn-relu", 40, seed=8))) < 5


def test_every_dtype_has_the_same_configurations():
    float32 = kernel_frame(sample("dwconv-bn-relu", 50))
    int8 = kernel_frame(sample("dwconv-bn-relu", 50, dtype="int8"))
    assert set(int8["dtype"]) == {"int8"}
    assert float32["macs"].tolist() == int8["macs"].tolist()


def test_excluded_kernels_are_not_drawn_whatever_their_name():
    first = sample("fc", 30)
    named = [replace(kernel, name=f"measured {kernel.cin}") for kernel in first]
    others = sample("fc", 30, exclude=named)
    assert not set(first) & set(others)
    assert sample("fc", 60)[30:] == others


def test_the_joint_distribution_of_the_networks_is_recovered():
    # Few channels on large maps in three networks, many on small maps in one (nine times, which
    # is no more than once), and never the other way round.
    large, small = _network((112, 32, 64, 3)), _network(*[(7, 512, 512, 1)] * 9)
    table = kernel_frame(sample("conv-bn-relu", 2000, networks=[large] * 3 + [small]))
    large = table["hw"] > 50
    assert large.mean() == pytest.approx(0.75, abs=0.06)
    assert table.loc[large, "cin"].max() < 100 < table.loc[~large, "cin"].min()
    assert set(zip(large, table["kernel_size"], strict=True)) == {(True, 3), (False, 1)}
    assert table.loc[large, "cin"].nunique() > 30  # the space between is filled
    log_cin = np.log(table.loc[large, "cin"] / 32)
    assert log_cin.abs().max() <= np.log(2)
    assert log_cin.std() > 0.2


def test_types_that_networks_lack_are_drawn_on_their_maps():
    graph = _network((28, 16, 24, 3))
    for kind in ("bn", "hswish", "se", "maxpool", "concat", "channelshuffle", "transpose-conv"):
        table = kernel_frame(sample(kind, 50, networks=[graph]))
        channels = table["cin1" if kind == "concat" else "cin"]
        assert table["hw"].between(28 / 2, 28 * 2).all()
        assert channels.between(24 / 2, 24 * 2).all()


@pytest.mark.parametrize("kind", ["conv-bn-relu", "dwconv-bn-relu", "concat", "bnrelu", "maxpool"])
def test_the_networks_that_are_measured_lie_within_what_is_drawn(kind):
    networks = [zoo.variant(family, index) for family in zoo.FAMILIES for index in (0, 49)]
    table = kernel_frame(kernel for network in networks for kernel in network.kernels)
    table = table[table["kernel_type"] == kind]
    drawn = kernel_frame(sample(kind, 400))
    for column in ("hw", "kernel_size", "stride", "macs", "params", "input_bytes"):
        inside = table[column].between(drawn[column].min(), drawn[column].max())
        assert (inside | table[column].isna()).mean() > 0.97, column


def test_images_keep_their_channels():
    graph = _network((224, 3, 32, 3))
    assert {kernel.cin for kernel in sample("conv-bn-relu", 100, networks=[graph])} == {3}


def test_groups_divide_the_channels():
    net = Builder()
    net.conv(net.input(28, 28, 96), 256, 5, groups=2)
    for kernel in sample("conv-bn-relu", 200, networks=[net.graph("groups", outputs=[1])]):
        assert kernel.groups == 2
        assert kernel.cin % 2 == kernel.cout % 2 == 0


def _peak(frame):
    """A relative error of 5 %, but of 80 % for few channels on large maps."""
    return np.where((frame["hw"] > 80) & (frame["cin"] < 40), 0.8, 0.05)


def test_half_of_the_points_go_where_the_error_is_large():
    options = {"kernel_type": "conv-bn-relu", "n": 200, "seed": 2}
    plain = kernel_frame(sample(**options))
    adaptive = kernel_frame(sample(**options, error=_peak))
    assert not adaptive.duplicated(CONFIG).any()
    assert (_peak(plain) > 0.5).mean() < 0.2
    assert (_peak(adaptive[:100]) > 0.5).mean() < 0.2
    assert (_peak(adaptive[100:]) > 0.5).mean() > 0.6
    assert sample(**options, error=_peak, share=0) == sample(**options)


def test_where_there_is_no_error_the_points_still_differ():
    kernels = sample("relu", 50, error=lambda frame: np.zeros(len(frame)))
    assert len(set(kernels)) == 50


def test_the_error_function_sees_the_columns_of_a_kernel_frame():
    seen = []
    sample("se", 5, error=lambda frame: seen.append(frame) or frame["macs"] / 1e9)
    assert list(seen[0]) == list(kernel_frame([Kernel("se", hw=7, cin=8)]))
    assert pd.notna(seen[0]["macs"]).all()


def _nothing():
    return [_network((1, 1, 1, 1))]


MISTAKES = {
    "cannot sample float32 kernels of type conv; use one of: conv-bn-relu": {"kernel_type": "conv"},
    "cannot sample half kernels of type fc; use .* of: float32": {"dtype": "half"},
    "no fc kernel occurs in these networks; name other": {"networks": _nothing},
    "no network of the zoo is called 'lenet'": {"networks": lambda: ["lenet"]},
    "expected n >= 0 and 0 <= share <= 1, not -1 and 0.5": {"n": -1},
    "not 5 and 2; give others": {"share": 2},
    "finite error of 0 or more for each of .* array of shape .*; mend": {
        "error": lambda frame: frame["macs"][:3]
    },
    "expected a finite error": {"error": lambda frame: frame["macs"] * np.nan},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named(message):
    options = {"kernel_type": "fc", "n": 5} | MISTAKES[message]
    if callable(networks := options.get("networks")):
        options["networks"] = networks()
    with pytest.raises(EdgeError, match=message):
        sample(**options)


def test_more_than_there_are_is_refused():
    # A map of 1 x 1 is jittered to at most 2 x 2 pixels; its one channel stays.
    with pytest.raises(EdgeError, match=r"expected 9 new relu kernels and found no more than 2;"):
        sample("relu", 9, networks=_nothing())
