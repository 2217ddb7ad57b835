"""What the writer makes is run by both runtimes and compared with numpy and scipy."""

import importlib
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from scipy import ndimage, signal, special

from edgeutils import EdgeError
from edgeutils.networks import zoo
from edgeutils.networks.graph import Builder, single_kernel
from edgeutils.networks.kernels import KERNEL_TYPES, Kernel
from edgeutils.networks.tflite import to_bytes, write

RUNTIMES = ["ai_edge_litert", "tflite_runtime"]
DTYPES = ["float32", "int8"]
ARRAYS = {0: "<f4", 2: "<i4", 9: "<i1"}  # of schema.TensorType
# Neither square nor of one channel: height and width cannot be mistaken for one another.
SHAPE = (9, 12, 8)


def interpreter(package, data):
    if package == "tflite_runtime" and (sys.version_info >= (3, 12) or sys.platform != "linux"):
        pytest.skip("tflite-runtime has no wheel beyond Python 3.11 on Linux")
    made = importlib.import_module(f"{package}.interpreter").Interpreter(
        model_content=data, num_threads=1
    )
    made.allocate_tensors()
    return made


def run(package, data, inputs):
    """Outputs of the model as it stores them."""
    made = interpreter(package, data)
    for detail, values in zip(made.get_input_details(), inputs, strict=True):
        made.set_tensor(detail["index"], values)
    made.invoke()
    return [made.get_tensor(detail["index"]) for detail in made.get_output_details()]


def random_inputs(graph, rng):
    """One array per input, in [-4, 4): as integers on the grid of 1/16 for int8."""
    shapes = [(1, *graph.shapes[value]) for value in graph.inputs]
    if graph.dtype == "int8":
        return [rng.integers(-64, 64, shape).astype(np.int8) for shape in shapes]
    return [rng.uniform(-4, 4, shape).astype(np.float32) for shape in shapes]


class File:
    """Constants and grids of a model, read with the schema alone."""

    def __init__(self, data):
        self.model = schema.ModelT.InitFromPackedBuf(data, 0)
        self.main = self.model.subgraphs[0]
        self.tensors = {tensor.name.decode(): tensor for tensor in self.main.tensors}

    def stored(self, name):
        tensor = self.tensors[name]
        raw = np.asarray(self.model.buffers[tensor.buffer].data).tobytes()
        return np.frombuffer(raw, ARRAYS[tensor.type]).reshape(tensor.shape)

    def numbers(self, name):
        """Find the constant whose name ends like that; quantised ones as the numbers they mean."""
        name = next(each for each in self.tensors if each.endswith(name))
        values, tensor = self.stored(name).astype(float), self.tensors[name]
        if (grid := tensor.quantization) is None:
            return values
        shape = np.ones(values.ndim, int)
        shape[grid.quantizedDimension] = -1
        scale, zero = (a.astype(float) for a in (grid.scale, grid.zeroPoint))
        if scale.size > 1:
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        return (values - zero) * scale

    def on_grid(self, name, values):
        """Round what is between two operators of a quantised kernel."""
        grid = self.tensors[next(n for n in self.tensors if n.endswith(name))].quantization
        if grid is None:
            return values
        scale, zero = float(grid.scale[0]), int(grid.zeroPoint[0])
        return (np.clip(np.round(values / scale) + zero, -128, 127) - zero) * scale


def windows(x, size, *, stride=1, dilation=1, padding="same", fill=0.0):
    """Windows of every output pixel of a map: rows, columns, channels, taps down, taps across."""
    pads = []
    for side, taps in zip(x.shape[:2], size, strict=True):
        reach = dilation * (taps - 1) + 1
        total = max(0, (-(-side // stride) - 1) * stride + reach - side) * (padding == "same")
        pads.append((total // 2, total - total // 2))
    x = np.pad(x, [*pads, (0, 0)], constant_values=fill)
    reach = [dilation * (taps - 1) + 1 for taps in size]
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(0, 1))
    return view[::stride, ::stride, :, ::dilation, ::dilation]


def convolution(file, x, groups=1, **how):
    w, b = file.numbers("0/weights"), file.numbers("0/bias")
    seen = windows(x, w.shape[1:3], **how)
    parts = zip(np.split(seen, groups, axis=2), np.split(w, groups), strict=True)
    return np.concatenate([np.einsum("rcikl,okli->rco", s, p) for s, p in parts], axis=2) + b


def depthwise(file, x, **how):
    w, b = file.numbers("weights")[0], file.numbers("bias")
    seen = windows(x, w.shape[:2], **how)
    seen = np.repeat(seen, w.shape[2] // x.shape[2], axis=2)
    return np.einsum("rcikl,kli->rci", seen, w) + b


def transposed(file, x, stride):
    """Put zeros between the pixels, convolve in full, cut out what "same" leaves."""
    w, b = file.numbers("weights"), file.numbers("bias")
    spread = np.zeros((*((side - 1) * stride + 1 for side in x.shape[:2]), x.shape[2]))
    spread[::stride, ::stride] = x
    whole = np.stack(
        [
            sum(signal.convolve2d(spread[..., i], kernel[..., i]) for i in range(x.shape[2]))
            for kernel in w
        ],
        axis=2,
    )
    size = [side * stride for side in x.shape[:2]]
    cut = [max(0, side - out) // 2 for side, out in zip(whole.shape, size, strict=False)]
    whole = np.pad(whole, [(0, stride), (0, stride), (0, 0)])
    return whole[cut[0] : cut[0] + size[0], cut[1] : cut[1] + size[1]] + b


def normalised(file, x):
    return file.on_grid("scaled", x * file.numbers("scale")) + file.numbers("shift")


def excited(file, x):
    mean = file.on_grid("mean", x.mean(axis=(0, 1)))
    w, b = file.numbers("squeeze/weights")[:, 0, 0], file.numbers("squeeze/bias")
    squeezed = file.on_grid("squeeze", np.maximum(w @ mean + b, 0))
    w, b = file.numbers("excite/weights")[:, 0, 0], file.numbers("excite/bias")
    return x * file.on_grid("weigh", special.expit(file.on_grid("excite", w @ squeezed + b)))


def relu(x):
    return np.maximum(x, 0)


def relu6(x):
    return np.clip(x, 0, 6)


def pooled(x, size, how, reduce):
    return reduce(windows(x, size, fill=np.nan, **how), axis=(3, 4))


@dataclass(frozen=True)
class Case:
    make: object  # builder, inputs -> the value or values that the graph gives
    truth: object  # file, inputs -> the same by numpy or scipy
    inputs: tuple = (SHAPE,)
    steps: float = 1.0  # of the output's grid that an int8 model may be off


def unary(op, truth, **how):
    return Case(lambda net, x: net.same(op, x, **how), lambda file, x: truth(x))


def halves(x):
    return np.split(x, 2, axis=2)


CASES = {
    "conv": Case(
        lambda net, x: net.conv(x, 5, 3, stride=2, activation="relu"),
        lambda file, x: relu(convolution(file, x, stride=2)),
    ),
    "conv-5x3-valid-relu6": Case(
        lambda net, x: net.conv(x, 5, (5, 3), padding="valid", activation="relu6"),
        lambda file, x: relu6(convolution(file, x, padding="valid")),
    ),
    "conv-dilated-linear": Case(
        lambda net, x: net.conv(x, 5, 3, dilation=2),
        lambda file, x: convolution(file, x, dilation=2),
    ),
    "conv-groups": Case(
        lambda net, x: net.conv(x, 12, 3, groups=4),
        lambda file, x: convolution(file, x, groups=4),
    ),
    "dwconv": Case(
        lambda net, x: net.dwconv(x, 5, stride=2, activation="relu"),
        lambda file, x: relu(depthwise(file, x, stride=2)),
    ),
    "dwconv-multiplier-dilated": Case(
        lambda net, x: net.dwconv(x, 3, multiplier=2, dilation=2),
        lambda file, x: depthwise(file, x, dilation=2),
    ),
    "transpose-conv": Case(
        lambda net, x: net.transpose_conv(x, 5, (3, 4)),
        lambda file, x: transposed(file, x, 2),
    ),
    "transpose-conv-gaps": Case(
        lambda net, x: net.transpose_conv(x, 5, 2, stride=3),
        lambda file, x: transposed(file, x, 3),
    ),
    "fc": Case(
        lambda net, x: net.fc(x, 7),
        lambda file, x: x @ file.numbers("weights").T + file.numbers("bias"),
    ),
    "fc-flatten": Case(
        lambda net, x: net.fc(x, 7, activation="relu", flatten=True),
        lambda file, x: relu(file.numbers("weights") @ x.ravel() + file.numbers("bias")),
    ),
    "relu": unary("relu", relu),
    "hswish": unary("hswish", lambda x: x * relu6(x + 3) / 6),
    # What is rounded between two operators may fall on the other side.
    "bn": Case(lambda net, x: net.same("bn", x), normalised, steps=1.5),
    "bnrelu": Case(
        lambda net, x: net.same("bnrelu", x), lambda file, x: relu(normalised(file, x)), steps=1.5
    ),
    "add": Case(lambda net, x, y: net.add(x, y), lambda file, x, y: x + y, (SHAPE, SHAPE)),
    "add-one-channel": Case(
        lambda net, x, y: net.add(x, y), lambda file, x, y: x + y, (SHAPE, (9, 12, 1))
    ),
    "addrelu": Case(
        lambda net, x, y: net.add(x, y, relu=True),
        lambda file, x, y: relu(x + y),
        (SHAPE, SHAPE),
    ),
    "concat": Case(
        lambda net, *xs: net.concat(xs),
        lambda file, *xs: np.concatenate(xs, axis=2),
        (SHAPE, (9, 12, 3), (9, 12, 1), (9, 12, 5)),
    ),
    "split": Case(lambda net, x: net.split(x), lambda file, x: halves(x)),
    "channelshuffle": unary(
        "channelshuffle", lambda x: np.stack(halves(x), axis=3).reshape(x.shape), groups=2
    ),
    # A mean or a weight that falls on the other side of a rounding is one step more.
    "se": Case(lambda net, x: net.se(x, 3), excited, steps=2),
    "maxpool": Case(
        lambda net, x: net.maxpool(x, 3, stride=2),
        lambda file, x: pooled(x, (3, 3), {"stride": 2}, np.nanmax),
    ),
    "avgpool": Case(
        lambda net, x: net.avgpool(x, (2, 3)),
        lambda file, x: pooled(x, (2, 3), {}, np.nanmean),
    ),
    "avgpool-valid": Case(
        lambda net, x: net.avgpool(x, (3, 2), padding="valid", stride=2),
        lambda file, x: pooled(x, (3, 2), {"padding": "valid", "stride": 2}, np.nanmean),
    ),
    "global-avgpool": Case(
        lambda net, x: net.global_avgpool(x), lambda file, x: x.mean(axis=(0, 1))
    ),
    "softmax": unary("softmax", lambda x: special.softmax(x, axis=2)),
    "logistic": unary("logistic", special.expit),
    "leakyrelu": unary("leakyrelu", lambda x: np.where(x > 0, x, 0.2 * x)),
    "gelu": unary("gelu", lambda x: x * special.ndtr(x)),
    "resize": Case(
        lambda net, x: net.resize(x, 2),
        lambda file, x: ndimage.zoom(x, (2, 2, 1), order=1, mode="nearest", grid_mode=True),
    ),
    "matmul": Case(
        lambda net, x, y: net.matmul(x, y, (3, 4, 6)),
        lambda file, x, y: x @ y,
        ((3, 4, 5), (3, 5, 6)),
    ),
    "matmul-transposed": Case(
        lambda net, x, y: net.matmul(x, y, (3, 4, 6)),
        lambda file, x, y: x @ y.swapaxes(1, 2),
        ((3, 4, 5), (3, 6, 5)),
    ),
    "reshape": Case(
        lambda net, x: net.reshape(x, (1, 108, 8)), lambda file, x: x.reshape(1, 108, 8)
    ),
    "on-the-grid-of-a-probability": Case(
        lambda net, x: net.fc(net.same("softmax", x), 7),
        lambda file, x: (
            file.on_grid("softmax_0", special.softmax(x, axis=2)) @ file.numbers("weights").T
            + file.numbers("bias")
        ),
    ),
}


@pytest.mark.parametrize("package", RUNTIMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_operator_agrees_with_an_independent_reference(name, dtype, package):
    case, net = CASES[name], Builder()
    made = case.make(net, *(net.input(*shape) for shape in case.inputs))
    graph = net.graph(name, outputs=made if isinstance(made, tuple) else [made], dtype=dtype)
    data = to_bytes(graph, seed=3)
    inputs = random_inputs(graph, np.random.default_rng(2023))
    outputs, file = run(package, data, inputs), File(data)
    truth = case.truth(file, *(x[0] / (16 if dtype == "int8" else 1.0) for x in inputs))
    for value, tensor, expected in zip(
        graph.outputs, outputs, truth if isinstance(truth, list) else [truth], strict=True
    ):
        assert tensor.shape == (1, *graph.shapes[value])
        wanted = expected.reshape(tensor.shape)
        if dtype == "float32":
            np.testing.assert_allclose(tensor, wanted, rtol=1e-4, atol=1e-5)
            continue
        grid = file.main.tensors[file.main.outputs[0]].quantization
        steps = np.clip(wanted / grid.scale[0] + grid.zeroPoint[0], -128, 127)
        assert np.abs(tensor - steps).max() <= case.steps
        assert np.abs(tensor - steps).mean() <= 0.3 * case.steps  # of rounding: 0.25


def configuration(kind):
    sizes = {"hw": 8, "cin": 6, "cout": 4, "kernel_size": 3, "stride": 2, "cin1": 6, "cin2": 4}
    return {name: size for name, size in sizes.items() if name in KERNEL_TYPES[kind]}


@pytest.mark.parametrize("package", RUNTIMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_every_kernel_type_runs_alone(kind, dtype, package):
    graph = single_kernel(Kernel(kind, **configuration(kind), dtype=dtype))
    outputs = run(package, to_bytes(graph), random_inputs(graph, np.random.default_rng(0)))
    assert [output.dtype for output in outputs] == [np.dtype(dtype)] * len(outputs)
    assert all(np.std(output.astype(float)) > 0 for output in outputs)


@pytest.mark.parametrize("package", RUNTIMES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", ["mobilenet-v1-0.25-128", "mobilenet-v3-small_224_1.0_float", "squeezenet"]
)
def test_networks_run_and_tell_inputs_apart(name, dtype, package):
    graph = zoo.network(name, dtype=dtype)
    data, rng = to_bytes(graph), np.random.default_rng(0)
    first, second = (run(package, data, random_inputs(graph, rng))[0] for _ in range(2))
    assert np.isfinite(first).all()
    assert (first != second).any()


def plain(net, value):
    return net.dwconv(net.conv(value, 16, activation="relu"), activation="relu6")


def residual(net, value):
    return net.same("bn", net.add(value, net.conv(value, 16)))


def gated(net, value):
    return net.conv(net.se(net.same("hswish", value), 4), 16)


def attentive(net, value):
    query, key = net.reshape(value, (1, 144, 16)), net.reshape(net.conv(value, 16), (1, 144, 16))
    scores = net.same("softmax", net.matmul(query, key, (1, 144, 144)))
    return net.reshape(net.matmul(scores, query, (1, 144, 16)), (12, 12, 16))


@pytest.mark.parametrize("block", [plain, residual, gated, attentive])
def test_activations_keep_their_order_of_magnitude_through_thirty_blocks(block):
    net = Builder()
    value = net.input(12, 12, 16)
    for _ in range(30):
        value = block(net, value)
    graph = net.graph("deep", outputs=[value])
    output = run("ai_edge_litert", to_bytes(graph), random_inputs(graph, np.random.default_rng(1)))
    # A sum of thirty has a mean square of thirty.
    assert 0.05 < np.sqrt(np.mean(np.square(output[0]))) < 30


@pytest.fixture
def quantised():
    net = Builder()
    value = net.dwconv(net.conv(net.input(8, 8, 3), 6, 3), multiplier=2)
    return File(to_bytes(net.graph("q", outputs=[net.fc(net.se(value, 4), 5)], dtype="int8")))


def test_quantisation_follows_the_specification(quantised):
    codes = [code.builtinCode for code in quantised.model.operatorCodes]
    weighted = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": None}
    axes = {getattr(schema.BuiltinOperator, op): axis for op, axis in weighted.items()}
    seen = [op for op in quantised.main.operators if codes[op.opcodeIndex] in axes]
    assert len(seen) == 5
    for operator in seen:
        source, weights, bias = (quantised.main.tensors[i] for i in operator.inputs)
        axis = axes[codes[operator.opcodeIndex]]
        grid, channels = weights.quantization, 1 if axis is None else weights.shape[axis]
        assert grid.scale.size == channels
        assert grid.quantizedDimension == (axis or 0)
        assert not grid.zeroPoint.any()
        assert quantised.stored(weights.name.decode()).min() >= -127
        assert bias.type == schema.TensorType.INT32
        expected = source.quantization.scale * grid.scale
        np.testing.assert_allclose(bias.quantization.scale, expected, rtol=1e-6)
        assert not bias.quantization.zeroPoint.any()


def test_file_is_what_the_schema_asks_for(quantised):
    model = quantised.model
    assert model.buffers[0].data is None
    assert all(c.deprecatedBuiltinCode == min(c.builtinCode, 127) for c in model.operatorCodes)
    data = to_bytes(single_kernel(Kernel("fc", cin=5, cout=3)))
    assert data[4:8] == b"TFL3"
    packed = schema.Model.GetRootAs(data)
    for i in range(1, packed.BuffersLength()):
        vector = packed.Buffers(i)._tab
        assert vector.Vector(vector.Offset(4)) % 16 == 0


def test_same_seed_same_bytes():
    graph = single_kernel(Kernel("conv-bn-relu", hw=8, cin=3, cout=4, kernel_size=3, stride=1))
    assert to_bytes(graph, seed=1) == to_bytes(graph, seed=1)
    assert to_bytes(graph, seed=1) != to_bytes(graph, seed=2)


def test_no_two_channels_of_a_large_layer_are_alike():
    file = File(to_bytes(single_kernel(Kernel("fc", cin=1024, cout=2048))))
    weights = file.stored("fc_0/weights")
    assert len(np.unique(weights[:, :4], axis=0)) == 2048
    # He et al.: the mean square of the output is that of the input (no ReLU follows).
    assert weights.std() == pytest.approx(1024**-0.5, rel=0.01)


def test_write_writes_what_to_bytes_makes(tmp_path):
    graph = single_kernel(Kernel("se", hw=8, cin=8, cout=2))
    path = write(graph, tmp_path / "se.tflite", seed=5)
    assert path.read_bytes() == to_bytes(graph, seed=5)
    assert [each.name for each in tmp_path.iterdir()] == ["se.tflite"]


def test_uint8_is_refused_in_one_sentence():
    graph = single_kernel(Kernel("relu", hw=8, cin=8, dtype="uint8", name="old"))
    with pytest.raises(EdgeError, match=r"old is of the number type uint8.* float32, int8$"):
        to_bytes(graph)


def test_more_than_a_file_can_hold_is_refused_before_it_is_made():
    graph = single_kernel(Kernel("fc", cin=40_000, cout=40_000, name="huge"))
    with pytest.raises(EdgeError, match=r"huge has 6\.40 GB of weights.*2\.13 GB"):
        to_bytes(graph)


def test_a_folder_that_is_none_is_named(tmp_path):
    graph = single_kernel(Kernel("relu", hw=8, cin=8))
    with pytest.raises(EdgeError, match=r"relu\.tflite cannot be written.*another folder"):
        write(graph, tmp_path / "missing" / "relu.tflite")
