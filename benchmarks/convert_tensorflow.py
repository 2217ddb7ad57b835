"""Make the same convolutions with TensorFlow's converter; started by `write_models.py`.

Reads a list of configurations (JSON) from standard input and writes, per model, the seconds that
it took and the bytes that came out (JSON) to standard output. The first model is made twice, so
that what TensorFlow does once only is not counted. Weights are made before the clock starts.
"""

import json
import sys
import time

import tensorflow as tf


def convert(hw: int, cin: int, cout: int, window: int, stride: int) -> dict[str, float]:
    """Convert a convolution with bias and ReLU from a concrete function, its quickest way."""
    weights = tf.random.stateless_uniform((window, window, cin, cout), (0, 0), -0.1, 0.1)
    bias = tf.zeros(cout)
    start = time.perf_counter()

    @tf.function(input_signature=[tf.TensorSpec((1, hw, hw, cin))])
    def kernel(x: tf.Tensor) -> tf.Tensor:
        return tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, weights, stride, "SAME"), bias))

    converter = tf.lite.TFLiteConverter.from_concrete_functions([kernel.get_concrete_function()])
    data = converter.convert()
    return {"seconds": time.perf_counter() - start, "bytes": len(data)}


def main() -> None:
    """Answer one request."""
    configurations = json.load(sys.stdin)
    convert(*configurations[0])
    made = [convert(*configuration) for configuration in configurations]
    json.dump({"version": tf.__version__, "models": made}, sys.stdout)


if __name__ == "__main__":
    main()
