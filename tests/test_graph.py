import numpy as np
import pytest

from edgeutils import EdgeError
from edgeutils.networks import zoo
from edgeutils.networks.graph import EXTRAS, Builder, factors, output_side, single_kernel
from edgeutils.networks.kernels import KERNEL_TYPES, Kernel

# A configuration of each type, as `Graph.kernels` writes it.
WHOLE = {
    "conv-bn-relu": {"hw": 15, "cin": 6, "cout": 9, "kernel_size": 3, "stride": 2},
    "dwconv-bn-relu": {"hw": 15, "cin": 6, "kernel_size": 5, "stride": 1},
    "transpose-conv": {"hw": 7, "cin": 6, "cout": 4, "kernel_size": 3, "stride": 2},
    "fc": {"cin": 64, "cout": 10},
    "concat": {"hw": 7, "cin1": 3, "cin2": 5, "cin3": 7, "cin4": 2},
    "se": {"hw": 7, "cin": 16, "cout": 5},
    "maxpool": {"hw": 15, "cin": 6, "kernel_size": 3, "stride": 2},
    "avgpool": {"hw": 15, "cin": 6, "kernel_size": 2, "stride": 2},
}
SPECIAL = {
    "valid": ("conv-bn-relu", WHOLE["conv-bn-relu"] | {"padding": 0}),
    "dilated": ("conv-bn-relu", WHOLE["conv-bn-relu"] | {"dilation": 2, "stride": 1}),
    "grouped": ("conv-bn-relu", WHOLE["conv-bn-relu"] | {"groups": 3}),
    "valid depthwise": ("dwconv-bn-relu", WHOLE["dwconv-bn-relu"] | {"padding": 0}),
    "multiplied depthwise": ("dwconv-bn-relu", WHOLE["dwconv-bn-relu"] | {"cout": 18}),
    "valid pool": ("avgpool", WHOLE["avgpool"] | {"padding": 0}),
    "two to join": ("concat", {"hw": 7, "cin1": 3, "cin2": 5}),
    "broadcast": ("add", {"hw": 7, "cin": 8, "cin1": 8, "cin2": 1}),
    "tokens": ("fc", {"cin": 64, "cout": 10, "pixels": 128}),
}
CASES = {kind: (kind, WHOLE.get(kind, {"hw": 7, "cin": 8})) for kind in KERNEL_TYPES} | SPECIAL


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_the_graph_of_a_kernel_holds_that_kernel_alone(case, dtype):
    kind, config = CASES[case]
    kernel = Kernel(kind, dtype=dtype, **config)
    graph = single_kernel(kernel)
    assert graph.kernels == (kernel,)
    assert (graph.dtype, graph.family, graph.uncovered) == (dtype, kind, {})
    assert (graph.macs, graph.params) == (kernel.macs, kernel.params)
    elements = sum(np.prod(graph.shapes[value]) for value in graph.inputs)
    written = sum(np.prod(graph.shapes[value]) for value in graph.outputs)
    size = 4 if dtype == "float32" else 1
    assert (kernel.input_bytes, kernel.output_bytes) == (elements * size, written * size)


@pytest.mark.parametrize("family", zoo.FAMILIES)
def test_every_kernel_of_a_network_can_stand_alone(family):
    for kernel in set(zoo.variant(family, 3).kernels):
        assert single_kernel(kernel).kernels == (kernel,)


def _flat(op, height=98, width=40, **how):
    net = Builder()
    value = net.input(height, width, 8)
    if op in ("add", "addrelu"):
        return net, net.add(value, net.input(height, width, 8), relu=op == "addrelu")
    if op == "concat":
        return net, net.concat([value, net.input(height, width, 3)])
    method = getattr(net, op, None)
    return net, method(value, **how) if method else net.same(op, value)


FLAT = {
    "conv": {"cout": 5, "window": (20, 8)},
    "strided conv": {"cout": 5, "window": (20, 8), "stride": (2, 4), "padding": "valid"},
    "conv along one side": {"cout": 5, "window": (9, 1), "stride": (2, 1), "dilation": (2, 1)},
    "dwconv": {"window": (3, 1), "multiplier": 2},
    "transpose_conv": {"cout": 5, "window": (4, 2)},
    "maxpool": {"window": (2, 1), "stride": (2, 1)},
    "avgpool": {"window": (2, 2), "stride": 2, "padding": "valid"},
} | {op: {} for op in ("se", "global_avgpool", "add", "addrelu", "concat", "relu", "bn", "split")}


@pytest.mark.parametrize("case", FLAT)
def test_a_kernel_that_is_not_square_keeps_its_exact_sizes(case):
    op = "conv" if "conv" in case and case not in ("dwconv", "transpose_conv") else case
    how = FLAT[case] | ({"squeezed": 4} if op == "se" else {})
    net, out = _flat(op, **how)
    outputs = out if isinstance(out, tuple) else (out,)
    graph = net.graph("flat", outputs=outputs)
    (kernel,) = graph.kernels
    assert kernel.pixels == 98 * 40
    assert kernel.input_bytes == 4 * sum(np.prod(graph.shapes[value]) for value in graph.inputs)
    assert kernel.output_bytes == 4 * sum(np.prod(graph.shapes[value]) for value in outputs)
    assert single_kernel(kernel).kernels == (kernel,)


def test_work_of_a_flat_convolution_counted_by_hand():
    net = Builder()
    net.conv(net.input(98, 40, 1), 64, (20, 8), stride=(2, 1), padding="valid")
    (kernel,) = net.graph("speech", outputs=[1]).kernels
    assert (kernel.out_pixels, kernel.taps) == (40 * 33, 160)  # (98 - 20) / 2 + 1, 40 - 8 + 1
    assert (kernel.macs, kernel.params) == (40 * 33 * 160 * 64, 160 * 64 + 64)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_output_sides_equal_windows_that_are_counted(padding):
    for side, window, stride, dilation in np.ndindex(12, 5, 3, 3):
        sizes = (side + 1, window + 1, stride + 1, dilation + 1)
        reach = sizes[3] * window + 1
        firsts = range(0, sizes[0] if padding == "same" else sizes[0] - reach + 1, sizes[2])
        if firsts:
            assert output_side(*sizes, padding) == len(firsts), sizes


def test_a_network_counted_by_hand():
    net = Builder()
    stem = net.conv(net.input(32, 32, 3), 8, 3, stride=2, activation="relu6")  # 16 x 16 x 8
    left, right = net.split(stem)
    joined = net.concat([net.dwconv(left, 3), right])  # 16 x 16 x 8
    weighed = net.se(net.add(joined, stem), 2)
    logits = net.fc(weighed, 10, flatten=True)
    graph = net.graph("small", outputs=[net.same("softmax", logits)], family="own", dtype="int8")
    kinds = [kernel.kernel_type for kernel in graph.kernels]
    assert kinds == ["conv-bn-relu", "split", "dwconv-bn-relu", "concat", "add", "se", "fc"]
    assert graph.macs == 256 * 27 * 8 + 256 * 9 * 4 + 2 * 8 * 2 + 2048 * 10
    assert graph.params == 27 * 8 + 8 + 36 + 4 + 32 + 10 + 20480 + 10
    assert graph.uncovered == {"reshape": 1, "softmax": 1}
    assert (graph.resolution, graph.shapes[graph.outputs[0]]) == (32, (1, 1, 10))
    assert {kernel.dtype for kernel in graph.kernels} == {"int8"}


def test_attention_is_not_covered_and_tokens_are_counted():
    net = Builder()
    tokens = net.input(1, 128, 64)
    scores = net.same("softmax", net.matmul(net.fc(tokens, 32), tokens, (1, 128, 128)))
    mixed = net.resize(net.reshape(net.matmul(scores, tokens, (1, 128, 64)), (8, 16, 64)), 2)
    graph = net.graph("attention", outputs=[net.same("leakyrelu", mixed)])
    assert graph.macs == 128 * 64 * 32
    uncovered = {"matmul": 2, "softmax": 1, "reshape": 1, "resize": 1, "leakyrelu": 1}
    assert graph.uncovered == uncovered
    assert set(uncovered) < set(EXTRAS)
    assert graph.shapes[graph.outputs[0]] == (16, 32, 64)


def test_more_than_four_maps_are_joined_four_at_a_time():
    net = Builder()
    values = [net.input(4, 4, i + 1) for i in range(6)]
    graph = net.graph("joined", outputs=[net.concat(values)])
    assert graph.shapes[graph.outputs[0]] == (4, 4, 21)
    first, second = graph.kernels
    assert (first.cin1, first.cin4, second.cin1, second.cin3, second.cin4) == (1, 4, 10, 6, None)


def test_a_graph_without_kernels_has_no_work():
    net = Builder()
    graph = net.graph("nothing", outputs=[net.same("softmax", net.input(1, 1, 4))])
    assert (graph.macs, graph.params, graph.kernels) == (0, 0, ())


def test_factors_multiply_to_the_area():
    assert factors(16) == [(4, 4), (2, 8), (8, 2), (1, 16), (16, 1)]
    assert {rows * columns for rows, columns in factors(360)} == {360}


MISTAKES = {
    "unknown operator 'relu9'; use one of: conv-bn-relu.*softmax": lambda n, v: n.same("relu9", v),
    "unknown activation 'tanh'; use one of: relu": lambda n, v: n.conv(v, 8, activation="tanh"),
    "7 -> 8 channels cannot be cut into 2 groups": lambda n, v: n.conv(v, 8, groups=2),
    r"a window of \(7, 7\) does not fit a map of 5 x 5": lambda n, v: n.maxpool(
        v, 7, padding="valid"
    ),
    "a split halves the channels, but there are 7": lambda n, v: n.split(v),
    r"\(5, 5, 7\) cannot be read as \(1, 1, 7\)": lambda n, v: n.reshape(v, (1, 1, 7)),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_in_a_network_is_named(message):
    net = Builder()
    value = net.input(5, 5, 7)
    with pytest.raises(EdgeError, match=message):
        MISTAKES[message](net, value)


def test_a_kernel_that_no_file_can_hold_is_refused():
    config = {"hw": 15, "cin": 6, "cout": 9, "kernel_size": 3, "stride": 2}
    with pytest.raises(EdgeError, match=r"expected padding None \(same\) or 0 \(valid\), not 1"):
        single_kernel(Kernel("conv-bn-relu", **config, padding=1))
    sizes = {"pixels": 225, "out_pixels": 7, "taps": 9}
    with pytest.raises(EdgeError, match="sizes that some conv-bn-relu has, not 225 pixels, 7 of"):
        single_kernel(Kernel("conv-bn-relu", **config, **sizes))
