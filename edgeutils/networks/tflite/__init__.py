"""LiteRT models (`.tflite`) without TensorFlow: write graphs as files, read any file as kernels."""

from edgeutils.networks.tflite.reader import ModelKernels, read
from edgeutils.networks.tflite.writer import to_bytes, write

__all__ = ["ModelKernels", "read", "to_bytes", "write"]
