"""What `child` runs of PyTorch: a graph on this machine's CPU, or as a CUDA graph on its GPU.

On CUDA the work of several inferences is captured once and replayed, so that the gaps between
launches do not count: the CPU only starts replays, and waits for the last of a window. float32 is
float32 (no TF32); cuDNN chooses algorithms by its heuristics, without trying them out.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from edgeutils import EdgeError
from edgeutils.hardware.child import Work, warm_up
from edgeutils.networks.graph import Graph, Layer
from edgeutils.networks.torch_network import Network

#: Inferences are captured together until they last this long, s: to start a replay takes some
#: ten microseconds.
_REPLAY_S = 2e-3
_MOST = 256  # inferences in a replay
_TRIES = 5  # on the stream beside the first, which CUDA asks for before a capture


def load(request: Mapping[str, Any]) -> Work:
    """Make the network and capture it; EdgeError: PyTorch sees no GPU, or does not run it."""
    told, device = request["graph"], request["device"]
    if device == "cuda" and not torch.cuda.is_available():
        raise EdgeError("PyTorch sees no GPU of NVIDIA; use the CPU, or install CUDA's PyTorch")
    torch.set_num_threads(request["threads"])
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    graph = Graph(**told | {"layers": [Layer(**each) for each in told["layers"]]})
    network = Network(graph, device=device, seed=request["seed"])
    once = partial(network.forward, *network.inputs)
    if device == "cpu":
        return Work(once)
    torch.cuda.empty_cache()  # what the request before this one held
    work = _captured(once, 1)
    if request["window_s"]:
        count = min(math.ceil(_REPLAY_S / warm_up(work.whole, _TRIES, 0)), _MOST)
        work = _captured(once, count) if count > 1 else work
    return work


def _captured(once: Callable, count: int) -> Work:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_TRIES):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            once()
    name = f"cuda {torch.cuda.get_device_name()}"
    return Work(graph.replay, torch.cuda.synchronize, count, name)
