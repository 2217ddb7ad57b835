"""Any `.tflite` as kernels: fusion, exact work, and files that mean no good."""

import json
import re
import runpy
import tracemalloc
from dataclasses import replace

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgeutils import ROOT, EdgeError
from edgeutils.networks import commands, zoo
from edgeutils.networks.graph import Builder, single_kernel
from edgeutils.networks.kernels import KERNEL_TYPES, WORK, Kernel
from edgeutils.networks.tflite import read, to_bytes, unpack, write

MUTANTS = runpy.run_path(str(ROOT / "benchmarks" / "mutants.py"))
RELU, RELU6 = {"fusedActivationFunction": 1}, {"fusedActivationFunction": 3}
STEP = {"strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
X = [1, 8, 8, 4]  # the shape of most maps here
OPTIONS = {
    "ADD": "Add",
    "AVERAGE_POOL_2D": "Pool2D",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "FULLY_CONNECTED": "FullyConnected",
    "MEAN": "Reducer",
    "MUL": "Mul",
    "TRANSPOSE_CONV": "TransposeConv",
}


class File:
    """A `.tflite` that is put together operator by operator; values have names."""

    def __init__(self, **inputs):
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []
        self.graph.tensors, self.graph.operators, self.names = [], [], {}
        self.graph.inputs = [self.value(name, shape) for name, shape in inputs.items()]
        self.graph.outputs, self.model.subgraphs = [], [self.graph]

    def value(self, name, shape, data=None, kind="FLOAT32", signature=None):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, shape, getattr(schema.TensorType, kind)
        tensor.shapeSignature, tensor.buffer = signature, 0
        if data is not None:
            self.model.buffers.append(schema.BufferT())
            self.model.buffers[-1].data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers) - 1
        self.names[name] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)
        return self.names[name]

    def weights(self, name, *shape):
        self.value(name, shape, np.ones(shape, np.float32))
        return self

    def integers(self, name, *values):
        self.value(name, [len(values)], np.array(values, np.int32), "INT32")
        return self

    def op(self, op, inputs, output, shape, kind="FLOAT32", **fields):
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        number = op if isinstance(op, int) else getattr(schema.BuiltinOperator, op, 32)
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.customCode = op if number == 32 else None
        operator.opcodeIndex = len(self.model.operatorCodes)
        self.model.operatorCodes.append(code)
        operator.inputs = [self.names.get(name, -1) for name in inputs.split()]
        operator.outputs = [self.value(output, shape, kind=kind)]
        if name := OPTIONS.get(op):
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{name}Options")
            operator.builtinOptions = getattr(schema, f"{name}OptionsT")()
            for key, value in fields.items():
                setattr(operator.builtinOptions, key, value)
        self.graph.operators.append(operator)
        return self

    def conv(self, inputs, output, shape, **fields):
        return self.op("CONV_2D", inputs, output, shape, **STEP | fields)

    def bytes(self, *outputs):
        self.graph.outputs = [self.names[name] for name in outputs]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    def read(self, folder, *outputs):
        path = folder / "model.tflite"
        path.write_bytes(self.bytes(*outputs))
        return read(path)


def without_names(kernels):
    return [replace(kernel, name="") for kernel in kernels]


def types(found):
    return [kernel.kernel_type for kernel in found.kernels]


# Round trips.


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_a_kernel_that_was_written_is_read_back(kind, dtype, tmp_path):
    sizes = {"hw": 12, "cin": 16, "cout": 6, "kernel_size": 3, "stride": 2, "cin1": 5, "cin2": 7}
    needed = {name: sizes[name] for name in KERNEL_TYPES[kind]}
    kernel = Kernel(kind, **needed, **({"cout": 4} if kind == "se" else {}), dtype=dtype)
    found = read(write(single_kernel(kernel), tmp_path / "kernel.tflite"))
    assert without_names(found.kernels) == [kernel]
    assert (found.uncovered, found.notes, found.dtype) == ({}, (), dtype)
    assert found.macs == kernel.macs
    assert found.params == kernel.params


NETWORKS = [*(f"{family}-v03" for family in zoo.FAMILIES), "mobilenet-v3-large_224_1.0"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_was_written_is_read_back(name, tmp_path):
    graph = zoo.network(name)
    found = read(write(graph, tmp_path / "network.tflite"))
    assert without_names(found.kernels) == without_names(graph.kernels)
    assert sum(found.uncovered.values()) == sum(graph.uncovered.values())
    assert (found.macs, found.params) == (graph.macs, graph.params)


def test_kernels_are_named_as_the_tensors_that_they_write(tmp_path):
    net = Builder()
    value = net.conv(net.input(8, 8, 3), 4, 3, activation="relu")
    graph = net.graph("two", outputs=[net.fc(net.global_avgpool(value), 10)])
    found = read(write(graph, tmp_path / "two.tflite"))
    model = schema.ModelT.InitFromPackedBuf((tmp_path / "two.tflite").read_bytes(), 0)
    main = model.subgraphs[0]
    written = [main.tensors[op.outputs[0]].name.decode() for op in main.operators]
    assert [kernel.name for kernel in found.kernels] == written
    assert found.ops == (("CONV_2D",), ("MEAN",), ("FULLY_CONNECTED",))
    assert found.model == "two.tflite"


# Real files, counted independently through the schema's object interface.


def counted(data):
    """MACs and number of operators of the main graph, from weights and outputs alone."""
    codes = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    main, macs = model.subgraphs[0], 0
    for op in main.operators:
        code = model.operatorCodes[op.opcodeIndex]
        name = codes[max(code.builtinCode, code.deprecatedBuiltinCode)]
        shapes = [np.abs(main.tensors[i].shape) for i in op.inputs[:3] if i >= 0]
        out = main.tensors[op.outputs[0]].shape
        if name in ("CONV_2D", "FULLY_CONNECTED"):
            macs += int(np.prod(np.abs(out))) * int(np.prod(shapes[1][1:]))
        elif name == "DEPTHWISE_CONV_2D":
            macs += int(np.prod(np.abs(out))) * int(np.prod(shapes[1][1:3]))
        elif name == "TRANSPOSE_CONV":
            macs += int(np.prod(shapes[2])) * int(np.prod(shapes[1][:3]))
    return macs, len(main.operators)


def test_macs_of_real_files_equal_an_independent_count(mirror):
    files = sorted(mirror.glob("models/**/*.tflite"))
    assert len(files) > 10
    for file in files:
        found = read(file)
        macs, operators = counted(file.read_bytes())
        assert found.macs == macs, file.name
        assert sum(map(len, found.ops)) + sum(found.uncovered.values()) == operators


@pytest.mark.parametrize(
    ("name", "kernels", "uncovered"),
    [
        ("mobilenet_v2_1.0_224_quant", 64, {"RESHAPE": 1, "SOFTMAX": 1}),
        ("str_ww_ref_model", 9, {"RESHAPE": 1, "SOFTMAX": 1}),
        ("model_invoking_error", 0, {"fake-op-double": 1}),
        ("ad01_int8", 10, {}),
    ],
)
def test_kernels_of_real_files(mirror, name, kernels, uncovered):
    found = read(next(mirror.glob(f"models/**/{name}.tflite")))
    assert (len(found.kernels), found.uncovered) == (kernels, uncovered)


def test_a_long_map_has_its_exact_work(mirror):
    found = read(next(mirror.glob("models/**/str_ww_ref_model.tflite")))
    first = found.kernels[0]  # 30 x 1 x 40, a window of 3 x 1, valid
    assert (first.kernel_type, first.pixels, first.out_pixels, first.taps) == (
        "dwconv-bn-relu",
        30,
        28,
        3,
    )
    assert first.macs == 28 * 3 * 40


# Fusion, one pattern at a time.


def test_a_clamp_belongs_to_the_kernel_before_it(tmp_path):
    file = File(x=X).weights("w", 6, 3, 3, 4).conv("x w", "y", [1, 8, 8, 6])
    file.op("RELU6", "y", "z", [1, 8, 8, 6])
    found = file.read(tmp_path, "z")
    assert found.ops == (("CONV_2D", "RELU6"),)
    assert found.kernels[0].name == "z"
    # Not if somebody else sees the value in between.
    assert types(file.read(tmp_path, "y", "z")) == ["conv-bn-relu", "relu"]
    file.op("ADD", "y z", "sum", [1, 8, 8, 6], **RELU)
    assert types(file.read(tmp_path, "sum")) == ["conv-bn-relu", "relu", "addrelu"]


def test_a_constant_pad_belongs_to_the_convolution_after_it(tmp_path):
    file = File(x=[1, 224, 224, 3]).integers("pads", 0, 0, 3, 3, 3, 3, 0, 0)
    file.weights("w", 64, 7, 7, 3).op("PAD", "x pads", "padded", [1, 230, 230, 3])
    step = {"strideH": 2, "strideW": 2, "padding": 1, **RELU}
    found = file.conv("padded w", "y", [1, 112, 112, 64], **step).read(tmp_path, "y")
    sizes = {"hw": 224, "cin": 3, "cout": 64, "kernel_size": 7, "stride": 2}
    assert without_names(found.kernels) == [Kernel("conv-bn-relu", **sizes)]
    assert found.ops == (("PAD", "CONV_2D"),)


def test_a_pad_that_is_not_that_of_same_keeps_its_exact_output(tmp_path):
    file = File(x=X).integers("pads", 0, 0, 3, 3, 3, 3, 0, 0).weights("w", 1, 3, 3, 4)
    file.op("PAD", "x pads", "padded", [1, 14, 14, 4])
    step = STEP | {"padding": 1, "depthMultiplier": 1}
    file.op("DEPTHWISE_CONV_2D", "padded w", "y", [1, 12, 12, 4], **step)
    kernel = file.read(tmp_path, "y").kernels[0]
    assert (kernel.macs, kernel.hw, kernel.out_pixels) == (144 * 9 * 4, 8, 144)


def test_batch_norm_is_a_factor_and_a_summand_per_channel(tmp_path):
    file = File(x=X).weights("a", 4).weights("b", 1, 1, 1, 4).weights("one", 1)
    file.op("MUL", "x a", "y", X).op("ADD", "b y", "z", X).op("RELU", "z", "out", X)
    found = file.read(tmp_path, "out")
    assert (types(found), found.ops) == (["bnrelu"], (("MUL", "ADD", "RELU"),))
    assert types(file.read(tmp_path, "z", "out")) == ["bn", "relu"]
    file = File(x=X).weights("one", 1).op("MUL", "x one", "y", X).op("ADD", "y one", "z", X)
    assert file.read(tmp_path, "z").uncovered == {"MUL": 1, "ADD": 1}


def squeeze_and_excite(form):
    """Blocks that squeeze 16 channels to 4: as Keras, PyTorch and slim export them."""
    x, one, small = [1, 8, 8, 16], [1, 1, 1, 16], [1, 1, 1, 4]
    file = File(x=x).integers("axes", 1, 2).integers("to", 1, 1, 1, 16).weights("c", 1)
    mean = [1, 16] if form == "fc" else one
    if form == "pool":
        sides = {"filterHeight": 8, "filterWidth": 8, "strideH": 8, "strideW": 8, "padding": 1}
        file.op("AVERAGE_POOL_2D", "x", "m", one, **sides)
    else:
        file.op("MEAN", "x axes", "m", mean)
    if form == "fc":
        file.weights("w1", 4, 16).weights("w2", 16, 4)
        file.op("FULLY_CONNECTED", "m w1 none", "s", [1, 4], **RELU)
        file.op("FULLY_CONNECTED", "s w2 none", "e", [1, 16])
        file.op("LOGISTIC", "e", "l", [1, 16]).op("RESHAPE", "l to", "g", one)
        return file.op("MUL", "g x", "out", x)
    file.weights("w1", 4, 1, 1, 16).weights("w2", 16, 1, 1, 4).conv("m w1", "s", small)
    if form == "swish":
        file.op("LOGISTIC", "s", "p", small).op("MUL", "s p", "r", small)
    else:
        file.op("RELU", "s", "r", small)
    file.conv("r w2", "e", one)
    if form == "hard":
        file.op("ADD", "e c", "three", one, **RELU6).op("MUL", "three c", "g", one)
    else:
        file.op("LOGISTIC", "e", "g", one)
    return file.op("MUL", "x g", "out", x)


@pytest.mark.parametrize("form", ["mean", "pool", "fc", "swish", "hard"])
def test_squeeze_and_excitation_is_one_kernel(form, tmp_path):
    file = squeeze_and_excite(form)
    found = file.read(tmp_path, "out")
    assert without_names(found.kernels) == [Kernel("se", hw=8, cin=16, cout=4)]
    assert found.uncovered == {}
    # Whoever looks inside prevents it; the work stays.
    apart = file.read(tmp_path, "out", "e")
    assert "se" not in types(apart)
    assert apart.macs == found.macs == 2 * 16 * 4


@pytest.mark.parametrize("last", [True, False], ids=["sixth last", "sixth first"])
def test_a_hard_swish_that_was_written_out_is_one_kernel(last, tmp_path):
    file = File(x=X).weights("three", 1).weights("sixth", 1)
    file.op("ADD", "x three", "a", X, **RELU6)
    if last:
        file.op("MUL", "x a", "b", X).op("MUL", "b sixth", "out", X)
    else:
        file.op("MUL", "a sixth", "b", X).op("MUL", "x b", "out", X)
    found = file.read(tmp_path, "out")
    assert (without_names(found.kernels), found.uncovered) == ([Kernel("hswish", hw=8, cin=4)], {})


@pytest.mark.parametrize("turn", [(0, 1, 2, 4, 3), (0, 1, 4, 2, 3)])
def test_a_channel_shuffle_swaps_the_last_two_axes(turn, tmp_path):
    file = File(x=X).integers("apart", 1, 8, 8, 2, 2).integers("turn", *turn).integers("back", *X)
    file.op("RESHAPE", "x apart", "a", [1, 8, 8, 2, 2]).op(
        "TRANSPOSE", "a turn", "b", [1, 8, 8, 2, 2]
    )
    found = file.op("RESHAPE", "b back", "c", X).read(tmp_path, "c")
    shuffles = turn == (0, 1, 2, 4, 3)
    assert types(found) == ["channelshuffle"] * shuffles
    assert found.uncovered == ({} if shuffles else {"RESHAPE": 2, "TRANSPOSE": 1})


@pytest.mark.parametrize(("axes", "kinds"), [((-2, -3), ["global-avgpool"]), ((3,), [])])
def test_a_mean_over_height_and_width_is_global(axes, kinds, tmp_path):
    found = File(x=X).integers("axes", *axes).op("MEAN", "x axes", "y", [1, 4]).read(tmp_path, "y")
    assert types(found) == kinds


def test_sums_and_concatenations(tmp_path):
    file = File(x=X, y=[1, 8, 8, 1], z=X).weights("c", 4)
    file.op("ADD", "y x", "a", X).op("ADD", "x c", "b", X)
    shape = [1, 8, 8, 17]
    file.op("CONCATENATION", "a b x z y", "all", shape, axis=3)
    file.op("CONCATENATION", "x z", "rows", [1, 16, 8, 4], axis=1)
    found = file.read(tmp_path, "all", "rows")
    add, concat = without_names(found.kernels)
    assert add == Kernel("add", hw=8, cin=4, cin1=4, cin2=1)
    assert concat == Kernel("concat", hw=8, cin1=4, cin2=4, cin3=4, cin4=5)
    assert found.uncovered == {"ADD": 1, "CONCATENATION": 1}


def test_weights_that_are_unpacked_on_loading_belong_to_their_kernel(tmp_path):
    file = File(x=X)
    file.value("half", [6, 1, 1, 4], np.ones(24, np.float16), "FLOAT16")
    file.op("DEQUANTIZE", "half", "w", [6, 1, 1, 4]).conv("x w", "y", [1, 8, 8, 6])
    found = file.read(tmp_path, "y")
    assert (found.ops, found.uncovered) == ((("DEQUANTIZE", "CONV_2D"),), {})


def test_groups_windows_and_strides_that_are_not_square(tmp_path):
    file = File(x=[1, 49, 10, 4]).weights("w", 6, 10, 4, 2)
    sides = {"strideH": 2, "strideW": 1, **RELU}
    found = file.conv("x w", "y", [1, 25, 10, 6], **sides).read(tmp_path, "y")
    kernel = found.kernels[0]
    assert (kernel.groups, kernel.pixels, kernel.out_pixels, kernel.taps) == (2, 490, 250, 40)
    assert found.macs == 250 * 40 * 2 * 6
    assert found.frame()["input_bytes"].tolist() == [490 * 4 * 4]


@pytest.mark.parametrize("batch", [-1, 3])
def test_a_batch_counts_and_an_open_one_counts_as_one(batch, tmp_path):
    count = max(1, batch)
    file = File(x=[batch, 8, 8, 4]).weights("w", 5, 1, 1, 4).weights("v", 10, 320)
    file.conv("x w", "y", [batch, 8, 8, 5]).op("FULLY_CONNECTED", "y v none", "z", [batch, 10])
    file.graph.tensors[0].shapeSignature = [batch, 8, 8, 4]
    assert file.read(tmp_path, "z").macs == count * (64 * 5 * 4 + 3200)


def test_a_transposed_convolution_visits_its_weights_once_per_input_pixel(tmp_path):
    file = File(x=X).weights("w", 6, 2, 2, 4).integers("size", 1, 16, 16, 6)
    step = {"strideH": 2, "strideW": 2, "padding": 1}
    file.op("TRANSPOSE_CONV", "size w x", "y", [1, 16, 16, 6], **step)
    assert file.read(tmp_path, "y").macs == 64 * 2 * 2 * 4 * 6


# What is no kernel, and what is no model.


def test_what_is_no_kernel_is_named(tmp_path):
    file = File(x=X).op("fancy\x1b[31m", "x", "y", X).op("SOFTMAX", "y", "z", X)
    file.op(5000, "z", "a", X).op("BATCH_MATMUL", "a z", "b", X)
    file.op("RELU", "b", "c", X).model.operatorCodes[-1].builtinCode = 32
    file.model.operatorCodes[-1].customCode = "RELU"
    file.model.operatorCodes[-1].deprecatedBuiltinCode = 32
    body = schema.SubGraphT()
    body.name, body.tensors, body.operators = "body", [], []
    file.model.subgraphs.append(body)
    found = file.read(tmp_path, "c")
    names = ["fancy�[31m", "SOFTMAX", "BUILTIN_5000", "BATCH_MATMUL", "CUSTOM RELU"]
    assert found.uncovered == dict.fromkeys(names, 1)
    assert found.notes == (
        "not counted: the subgraph body (0 operators)",
        "1 BATCH_MATMUL multiply too, but are no kernel: the MACs leave them out",
    )
    assert found.dtype == "float32"


def test_what_cannot_be_counted_is_noted(tmp_path):
    file = File(x=X).weights("w", 6, 1, 1, 4).weights("odd", 6, 1, 1, 3)
    file.value("open", [1, 1, 8, 4], signature=[1, -1, 8, 4])
    file.value("short", X, kind="INT16")
    for number, x in enumerate(("open w", "x odd", "short w")):
        file.conv(x, f"y{number}", [1, 8, 8, 6])
    found = file.read(tmp_path, "y0", "y1", "y2")
    assert (found.kernels, found.uncovered) == ((), {"CONV_2D": 3})
    assert found.notes[0].startswith("3 CONV_2D not counted: sizes that are open or contradict")


def test_an_input_of_open_size_is_refused(tmp_path):
    file = File(x=X).weights("w", 6, 1, 1, 4).conv("x w", "y", [1, 1, 1, 6])
    file.graph.tensors[0].shapeSignature = [-1, -1, -1, 4]
    with pytest.raises(EdgeError, match="leaves sizes of its input 'x' open"):
        file.read(tmp_path, "y")


def broken(change):
    file = File(x=X).weights("w", 6, 1, 1, 4).conv("x w", "y", [1, 8, 8, 6])
    data = change(file)
    return file.bytes("y") if data is None else data


BROKEN = {
    "empty": (lambda f: b"", "is no .tflite model"),
    "text": (lambda f: b"a text of some length", "is no .tflite model"),
    "short": (lambda f: b"\x10\0\0\0TFL3", "is damaged"),
    "no graph": (lambda f: f.model.subgraphs.clear(), "cannot be: no graph"),
    "no tensor": (lambda f: setattr(f.graph.operators[0], "inputs", [0, 9]), "tensor 9 of 3"),
    "negative": (lambda f: setattr(f.graph.operators[0], "outputs", [-1]), "is damaged"),
    "no code": (lambda f: setattr(f.graph.operators[0], "opcodeIndex", 7), "operator code 7"),
    "long list": (
        lambda f: setattr(f.graph.operators[0], "inputs", [0] * 600_000),
        "a list of 600000",
    ),
    "long name": (lambda f: setattr(f.graph.tensors[0], "name", "x" * 5000), "a name of 5000"),
    "rank": (lambda f: setattr(f.graph.tensors[0], "shape", [1] * 99), "a list of 99"),
    "options": (lambda f: setattr(f.graph.operators[0], "builtinOptionsType", 5), "of type 5"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_in_one_sentence(kind, tmp_path):
    change, said = BROKEN[kind]
    path = tmp_path / "broken.tflite"
    path.write_bytes(broken(change))
    with pytest.raises(EdgeError, match=re.escape(said)) as caught:
        read(path)
    assert "broken.tflite" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_operators_than_any_network_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(unpack, "_MOST_OPERATORS", 2)
    file = File(x=X).op("ABS", "x", "a", X).op("ABS", "a", "b", X).op("ABS", "b", "c", X)
    with pytest.raises(EdgeError, match="is damaged, a number in it cannot be: 3 operators; fetch"):
        file.read(tmp_path, "c")


def test_operators_that_feed_each_other_end(tmp_path):
    file = File(x=X).op("RELU", "x", "y", X).op("MUL", "x y", "z", X).op("RESHAPE", "z", "y2", X)
    file.graph.operators[0].inputs = [file.names["y2"]]
    file.graph.operators[1].inputs = [file.names["y"], file.names["y2"]]
    found = file.read(tmp_path, "z")
    assert sum(map(len, found.ops)) + sum(found.uncovered.values()) == 3


def test_no_file_and_too_large_a_file_are_refused(tmp_path):
    with pytest.raises(EdgeError, match="does not exist or is no file; give the path"):
        read(tmp_path)
    huge = tmp_path / "huge.tflite"
    with huge.open("wb") as file:
        file.truncate(3 * 10**9)  # sparse: nothing is written
    with pytest.raises(EdgeError, match=r"has 3\.0 GB, but a .tflite file has at most 2\.1 GB"):
        read(huge)


def test_weights_are_never_copied(tmp_path):
    graph = single_kernel(Kernel("fc", cin=8000, cout=4000))
    path = write(graph, tmp_path / "large.tflite")
    assert path.stat().st_size > 120e6
    tracemalloc.start()
    found = read(path)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert found.macs == 32_000_000
    assert peak_bytes < 2e6


def test_mutants_of_real_and_built_models_are_read_or_refused(tmp_path):
    parents, path = MUTANTS["built"]() | MUTANTS["real"](), tmp_path / "mutant.tflite"
    said = {}
    for name, how, data in MUTANTS["mutants"](parents, 500, seed=20231):
        path.write_bytes(data)
        said[f"{name}: {how}"] = MUTANTS["outcome"](path)
    assert {key: value for key, value in said.items() if value not in ("read", "refused")} == {}
    assert {*said.values()} == {"read", "refused"}


def nonsense(rng):
    """A block that makes sense, and then up to three shapes, wires or operators of it do not."""
    forms = ["mean", "pool", "fc", "swish", "hard"]
    file = squeeze_and_excite(forms[rng.integers(5)])
    x, one = [1, 8, 8, 16], [1, 8, 8, 2, 8]
    file.integers("apart", *one).integers("turn", 0, 1, 2, 4, 3).weights("k", 16, 3, 3, 16)
    file.op("RESHAPE", "out apart", "a", one).op("TRANSPOSE", "a turn", "b", [1, 8, 8, 8, 2])
    file.op("RESHAPE", "b back", "d", x).integers("pads", 0, 0, 1, 1, 1, 1, 0, 0).weights("b16", 16)
    file.op("PAD", "d pads", "p", [1, 10, 10, 16]).conv("p k", "y", x).op("RELU", "y", "z", x)
    file.op("MUL", "z b16", "n", x).op("ADD", "n b16", "q", x).op("CONCATENATION", "q x", "r", x)
    file.op("ADD", "r c", "u", x, **RELU6).op("MUL", "r u", "v", x).op("MUL", "v c", "w", x)
    tensors, operators = file.graph.tensors, file.graph.operators
    shapes = [tensor.shape for tensor in tensors] + [[], [4], [1, -1, 8, 4], [0, 1, 1, 1], [1] * 6]
    for _ in range(rng.integers(1, 4)):
        op, tensor = operators[rng.integers(len(operators))], tensors[rng.integers(len(tensors))]
        match rng.integers(6):
            case 0:
                tensor.shape = shapes[rng.integers(len(shapes))]
            case 1:
                op.inputs = rng.integers(-1, len(tensors), rng.integers(0, 5)).tolist()
            case 2:
                op.outputs = rng.integers(0, len(tensors), rng.integers(0, 3)).tolist()
            case 3:
                op.opcodeIndex = operators[rng.integers(len(operators))].opcodeIndex
                op.builtinOptions, op.builtinOptionsType = None, 0
            case 4:
                tensor.buffer = int(rng.integers(0, len(file.model.buffers)))
            case 5:
                tensor.type = int(rng.integers(0, 20))
    return file


def test_files_of_nonsense_are_read_with_every_operator_accounted_for(tmp_path):
    kinds = set()
    for seed in range(300):
        file = nonsense(np.random.default_rng(seed))
        try:
            found = file.read(tmp_path, "w")
        except EdgeError as error:
            assert "leaves sizes of its input" in str(error), seed  # noqa: PT017
            continue
        operators = len(file.graph.operators)
        assert sum(map(len, found.ops)) + sum(found.uncovered.values()) == operators, seed
        kinds |= {*types(found)}
    assert kinds >= {"se", "channelshuffle", "conv-bn-relu", "bn", "hswish", "global-avgpool"}


def test_every_truncation_is_refused(tmp_path):
    data, path = to_bytes(single_kernel(Kernel("se", hw=4, cin=4, cout=2))), tmp_path / "cut.tflite"
    for size in range(0, len(data) - 8, 37):
        path.write_bytes(data[:size])
        assert MUTANTS["outcome"](path) in ("read", "refused")
    path.write_bytes(data[: len(data) // 2])
    assert MUTANTS["outcome"](path) == "refused"


# The command.


def test_the_command_prints_one_json_value(tmp_path, capsys):
    net = Builder()
    value = net.conv(net.input(8, 8, 3), 4, 3, activation="relu")
    graph = net.graph("two", outputs=[net.same("softmax", net.global_avgpool(value))])
    commands.kernels(write(graph, tmp_path / "two.tflite"), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {*found} == {
        *("model", "dtype", "total_macs", "total_params", "kernels", "uncovered", "notes")
    }
    assert (found["model"], found["dtype"]) == ("two.tflite", "float32")
    assert (found["total_macs"], found["total_params"]) == (64 * 27 * 4, 27 * 4 + 4)
    assert found["uncovered"] == [{"op": "SOFTMAX", "count": 1}]
    conv, pool = found["kernels"]
    asked = ["kernel_type", "hw", "cin", "cout", "kernel_size", "stride", "cin1", "macs_share"]
    assert [conv[name] for name in asked] == ["conv-bn-relu", 8, 3, 4, 3, 1, None, 1.0]
    assert conv["bytes"] == 4 * (64 * 3 + 64 * 4 + 112)
    assert (pool["ops"], pool["macs"], pool["name"]) == (["MEAN"], 0, "global-avgpool_1")
    assert {*WORK} <= {*pool}


def test_the_command_says_what_is_not_covered(tmp_path, capsys):
    path = tmp_path / "odd.tflite"
    path.write_bytes(File(x=X).op("[bold]odd", "x", "y", X).bytes("y"))
    commands.kernels(path)
    said = capsys.readouterr().out
    assert "odd.tflite: 0 kernels, float32, 0.0 million MACs" in said
    assert "not covered: 1 [bold]odd" in said
    commands.kernels(path, as_json=True)
    assert json.loads(capsys.readouterr().out)["kernels"] == []


def test_the_command_shows_a_row_per_kernel(tmp_path, capsys):
    kernel = Kernel("concat", hw=8, cin1=3, cin2=5)
    commands.kernels(write(single_kernel(kernel), tmp_path / "concat.tflite"))
    assert re.search(r"1 +concat +8² +3\+5 ", capsys.readouterr().out)
