import numpy as np
import pandas as pd
import pytest

from edgeutils import EdgeError
from edgeutils.networks.kernels import KERNEL_TYPES, WORK, Kernel, add_work, kernel_frame

CONV = {"hw": 224, "cin": 3, "cout": 32, "kernel_size": 3, "stride": 2}

# type, configuration, MACs, parameters, elements read, elements written; counted by hand.
COUNTED = [
    ("conv-bn-relu", CONV, 112 * 112 * 27 * 32, 27 * 32 + 32, 224 * 224 * 3, 112 * 112 * 32),
    ("conv-bn-relu", CONV | {"hw": 13}, 7 * 7 * 27 * 32, 896, 169 * 3, 49 * 32),
    ("conv-bn-relu", CONV | {"padding": 0}, 111 * 111 * 864, 896, 224 * 224 * 3, 111 * 111 * 32),
    (
        "conv-bn-relu",
        {"hw": 28, "cin": 64, "cout": 64, "kernel_size": 3, "stride": 1}
        | {"groups": 4, "padding": 2, "dilation": 2},
        28 * 28 * 9 * 16 * 64,
        9 * 16 * 64 + 64,
        28 * 28 * 64,
        28 * 28 * 64,
    ),
    (
        "dwconv-bn-relu",
        {"hw": 112, "cin": 96, "kernel_size": 3, "stride": 2},
        56 * 56 * 9 * 96,
        9 * 96 + 96,
        112 * 112 * 96,
        56 * 56 * 96,
    ),
    (
        "transpose-conv",
        {"hw": 7, "cin": 8, "cout": 4, "kernel_size": 3, "stride": 2},
        49 * 9 * 32,
        9 * 32 + 4,
        49 * 8,
        196 * 4,
    ),
    ("fc", {"cin": 1024, "cout": 1000}, 1024000, 1025000, 1024, 1000),
    ("se", {"hw": 7, "cin": 64}, 2 * 64 * 16, 2 * 64 * 16 + 80, 49 * 64, 49 * 64),
    ("se", {"hw": 7, "cin": 64, "cout": 24}, 2 * 64 * 24, 2 * 64 * 24 + 88, 49 * 64, 49 * 64),
    ("bn", {"hw": 7, "cin": 64}, 0, 128, 49 * 64, 49 * 64),
    ("relu", {"hw": 7, "cin": 64}, 0, 0, 49 * 64, 49 * 64),
    ("add", {"hw": 7, "cin": 64}, 0, 0, 2 * 49 * 64, 49 * 64),
    ("addrelu", {"hw": 7, "cin1": 64, "cin2": 1}, 0, 0, 49 * 65, 49 * 64),
    ("concat", {"hw": 7, "cin1": 22, "cin2": 5, "cin3": 0, "cin4": 0}, 0, 0, 49 * 27, 49 * 27),
    ("maxpool", {"hw": 7, "cin": 8, "kernel_size": 3, "stride": 2}, 0, 0, 49 * 8, 16 * 8),
    ("global-avgpool", {"hw": 7, "cin": 64}, 0, 0, 49 * 64, 64),
]


@pytest.mark.parametrize(("kind", "config", "macs", "params", "read", "written"), COUNTED)
def test_work_counted_by_hand(kind, config, macs, params, read, written):  # noqa: PLR0917
    kernel = Kernel(kind, **config)
    assert (kernel.macs, kernel.params) == (macs, params)
    assert (kernel.input_bytes, kernel.output_bytes) == (4 * read, 4 * written)
    assert kernel.weight_bytes == 4 * params


def _windows(side, window, stride, dilation, padding):
    """First pixel of every window along one side, found by trying all of them."""
    reach = dilation * (window - 1) + 1
    if padding is None:  # as many as there are strides that begin in the map
        return [first for first in range(side) if first % stride == 0]
    last = side + 2 * padding - reach
    return [first for first in range(side + 2 * padding) if first % stride == 0 and first <= last]


def _brute(kernel):
    """MACs, weights, biases, elements read and written, counted one by one on small kernels."""
    kind, side, cin = kernel.kernel_type, kernel.hw or 1, kernel.cin or kernel.cin1
    field = [(y, x) for y in range(side) for x in range(side)]
    map_in, map_out, weights, biases, macs = len(field) * cin, len(field) * cin, set(), set(), 0
    if kernel.kernel_size:
        window, stride = kernel.kernel_size, kernel.stride
        taps = [(y, x) for y in range(window) for x in range(window)]
        starts = _windows(side, window, stride, kernel.dilation or 1, kernel.padding)
        map_out = len(starts) ** 2 * cin
    if kind == "conv-bn-relu":
        groups, cout = kernel.groups or 1, kernel.cout
        joined = [(i, o) for i in range(cin) for o in range(cout) if _group(i, o, kernel) == groups]
        weights, biases = {(*t, *io) for t in taps for io in joined}, set(range(cout))
        macs, map_out = sum(len(weights) for _ in starts for _ in starts), len(starts) ** 2 * cout
    elif kind == "dwconv-bn-relu":
        weights, biases = {(*t, c) for t in taps for c in range(cin)}, set(range(cin))
        macs = sum(len(weights) for _ in starts for _ in starts)
    elif kind == "transpose-conv":
        weights = {(*t, i, o) for t in taps for i in range(cin) for o in range(kernel.cout)}
        biases, macs = set(range(kernel.cout)), sum(len(weights) for _ in field)
        map_out = len({(y * stride + dy, x * stride + dx) for y, x in field
                       for dy in range(stride) for dx in range(stride)}) * kernel.cout  # fmt: skip
    elif kind == "fc":
        weights = {(i, o) for i in range(cin) for o in range(kernel.cout)}
        biases, macs, map_out = set(range(kernel.cout)), len(weights), kernel.cout
    elif kind == "se":
        weights = {
            (layer, i, s) for layer in (1, 2) for i in range(cin) for s in range(kernel.cout)
        }
        biases = {(1, s) for s in range(kernel.cout)} | {(2, c) for c in range(cin)}
        macs = len(weights)
    elif kind in ("bn", "bnrelu"):
        weights, biases = set(range(cin)), set(range(cin))
    elif kind in ("add", "addrelu"):
        map_in *= 2
    elif kind == "concat":
        counts = [c for c in (kernel.cin1, kernel.cin2, kernel.cin3, kernel.cin4) if c]
        map_in = map_out = sum(len(field) for c in counts for _ in range(c))
    elif kind == "global-avgpool":
        map_out = cin
    return macs, len(weights), len(biases), map_in, map_out


def _group(i, o, kernel):
    """Number of groups where input i and output o are in the same one, else 0."""
    groups = kernel.groups or 1
    return groups if i * groups // kernel.cin == o * groups // kernel.cout else 0


def _small(kind, rng):
    """A kernel small enough to be counted one by one."""
    config = {name: int(rng.integers(1, 7)) for name in KERNEL_TYPES[kind]}
    config |= {"stride": int(rng.integers(1, 4))} if "stride" in config else {}
    if kind == "conv-bn-relu":
        groups = int(rng.integers(1, 4))
        config |= {"groups": groups, "cin": groups * config["cin"], "cout": groups * config["cout"]}
        config |= {"dilation": int(rng.integers(1, 3)), "hw": 6 + config["hw"]}
    if kind in ("conv-bn-relu", "dwconv-bn-relu", "maxpool", "avgpool") and rng.random() < 0.5:
        config |= {"padding": int(rng.integers(0, 2)), "kernel_size": min(3, config["kernel_size"])}
        config["hw"] += 4
    if kind == "se":
        config["cout"] = int(rng.integers(1, 5))
    if kind == "concat" and rng.random() < 0.5:
        config |= {"cin3": 2, "cin4": 5}
    if kind in ("split", "channelshuffle"):
        config["cin"] *= 2
    return config


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_work_equals_a_count_one_by_one(kind, dtype):
    rng = np.random.default_rng([3, *kind.encode()])
    kernels = [Kernel(kind, dtype=dtype, **_small(kind, rng)) for _ in range(20)]
    counts = np.array([_brute(kernel) for kernel in kernels])
    macs, weights, biases, read, written = counts.T
    size, bias = (4, 4) if dtype == "float32" else (1, 4)
    work = kernel_frame(kernels)
    assert work["macs"].tolist() == macs.tolist()
    assert work["params"].tolist() == (weights + biases).tolist()
    assert work["weight_bytes"].tolist() == (weights * size + biases * bias).tolist()
    assert work["input_bytes"].tolist() == (read * size).tolist()
    assert work["output_bytes"].tolist() == (written * size).tolist()


def test_exact_sizes_win_over_rounded_ones():
    # A 1-D convolution: 49 x 10 map, 4 x 10 window, stride 2 along the first side: 25 x 10 out.
    rough = {"hw": 22, "cin": 1, "cout": 8, "kernel_size": 6, "stride": 1}
    kernel = Kernel("conv-bn-relu", **rough, pixels=490, out_pixels=250, taps=40)
    assert (kernel.macs, kernel.params) == (250 * 40 * 8, 40 * 8 + 8)
    assert (kernel.input_bytes, kernel.output_bytes) == (4 * 490, 4 * 250 * 8)
    tokens = Kernel("fc", cin=128, cout=512, pixels=384)
    assert (tokens.macs, tokens.params) == (384 * 128 * 512, 128 * 512 + 512)
    assert (tokens.input_bytes, tokens.output_bytes) == (4 * 384 * 128, 4 * 384 * 512)


def test_table_and_kernel_agree_on_every_row():
    kernels = tuple(Kernel(kind, **config) for kind, config, *_ in COUNTED)
    frame = kernel_frame(kernels)
    for name in WORK:
        assert frame[name].tolist() == [getattr(k, name) for k in kernels]


def test_quantised_weights_are_bytes_and_biases_are_int32():
    kernel = Kernel("fc", cin=10, cout=5, dtype="int8")
    assert (kernel.input_bytes, kernel.output_bytes, kernel.weight_bytes) == (10, 5, 50 + 4 * 5)


def test_rows_without_kernel_or_dtype_stay_missing_and_given_values_stay():
    table = pd.DataFrame(
        {
            "kernel_type": ["fc", None, "fc", "conv-bn-relu"],
            "cin": pd.array([8, 8, 8, 8], dtype="Int64"),
            "cout": pd.array([4, 4, 4, None], dtype="Int64"),
            "dtype": ["float32", "float32", None, "float32"],
            "macs": [np.nan, 7.0, 99.0, np.nan],
        }
    )
    work = add_work(table)
    assert work["macs"].fillna(-1).tolist() == [32, 7, 99, -1]
    assert work["weight_bytes"].fillna(-1).tolist() == [144, -1, -1, -1]
    assert "params" not in table


def test_the_papers_sixteen_types_are_known():
    assert len(set(KERNEL_TYPES) - {"transpose-conv"}) == 16


def test_unknown_type_lists_the_valid_ones():
    with pytest.raises(EdgeError, match="unknown kernel type conv; use one of: conv-bn-relu, dw"):
        Kernel("conv")
    with pytest.raises(EdgeError, match="unknown kernel type softmax"):
        add_work(pd.DataFrame({"kernel_type": ["softmax"]}))
    with pytest.raises(EdgeError, match="expected a column kernel_type"):
        add_work(pd.DataFrame({"cin": [1]}))


def test_missing_configuration_and_dtype_are_named():
    with pytest.raises(EdgeError, match="a conv-bn-relu kernel needs cout, stride"):
        Kernel("conv-bn-relu", hw=7, cin=8, kernel_size=3)
    with pytest.raises(EdgeError, match="unknown dtype 'float'; use one of: float32"):
        Kernel("relu", hw=7, cin=8, dtype="float")
