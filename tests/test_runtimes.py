"""Both runtimes of the lock run a real `.tflite`, built here from the published schema."""

import importlib
import sys

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema


def packed(model):
    """Bytes of a model, as a .tflite file holds them."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def fully_connected(weights: np.ndarray) -> bytes:
    """A model of one operator, y = W x, as a TensorFlow Lite flatbuffer."""
    outputs, inputs = weights.shape

    def tensor(name: bytes, shape: list[int], buffer: int) -> schema.TensorT:
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, shape, buffer
        made.type = schema.TensorType.FLOAT32
        return made

    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 1
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor(b"x", [1, inputs], 0),
        tensor(b"w", [outputs, inputs], 1),
        tensor(b"y", [1, outputs], 0),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), schema.BufferT()]
    model.buffers[1].data = np.frombuffer(weights.astype("<f4").tobytes(), dtype=np.uint8)
    return packed(model)


@pytest.mark.parametrize("package", ["ai_edge_litert.interpreter", "tflite_runtime.interpreter"])
def test_runtime_computes_a_known_product(package):
    if package.startswith("tflite_runtime") and (
        sys.version_info >= (3, 12) or sys.platform != "linux"
    ):
        pytest.skip("tflite-runtime has no wheel beyond Python 3.11 on Linux")
    interpreter_module = importlib.import_module(package)
    rng = np.random.default_rng(2023)
    weights = rng.normal(size=(5, 7)).astype(np.float32)
    x = rng.normal(size=(1, 7)).astype(np.float32)
    interpreter = interpreter_module.Interpreter(model_content=fully_connected(weights))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(y, x @ weights.T, rtol=1e-5)
