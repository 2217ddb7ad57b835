"""Feed the reader of `.tflite` files mutants of real and built models: no crash, no hang, no flood.

    python benchmarks/mutants.py [--mutants 20000] [--seed 0]

Parents are the real models of the data mirror (where there is one) and one built model of every
kernel type and number type. Mutations hit what is not weights: truncation, flipped bits, words
made huge (lengths and offsets), words copied from elsewhere in the file, stretches cut out, doubled
or zeroed, up to four at a time. Each mutant must be read or refused in one sentence; anything
else is listed in `benchmarks/results/mutants.json` with what makes it again.
"""

import argparse
import json
import platform
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgeutils import EdgeError, datasets
from edgeutils.networks.graph import single_kernel
from edgeutils.networks.kernels import KERNEL_TYPES, Kernel
from edgeutils.networks.tflite import read, to_bytes

RESULT = Path(__file__).with_name("results") / "mutants.json"
#: A kernel of each type has those of these that it needs.
CONFIG = {"hw": 8, "cin": 8, "cout": 4, "kernel_size": 3, "stride": 2, "cin1": 8, "cin2": 8}
#: A mutant that takes longer hangs, s; more memory than that is a flood.
PATIENCE_S, FLOOD_MB = 10.0, 1000
#: Words that break lengths, offsets and shapes.
WORDS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x10000, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 2)
Rng = np.random.Generator


def built() -> dict[str, bytes]:
    """Return a model of every kernel type and number type."""
    models = {}
    for kind, needed in KERNEL_TYPES.items():
        for dtype in ("float32", "int8"):
            kernel = Kernel(kind, dtype=dtype, **{name: CONFIG[name] for name in needed})
            models[f"{kind} {dtype}"] = to_bytes(single_kernel(kernel))
    return models


def real() -> dict[str, bytes]:
    """Return the real models at hand."""
    mirror = datasets.mirror()
    files = sorted(mirror.rglob("models/**/*.tflite")) if mirror else []
    return {file.name: file.read_bytes() for file in files}


def structure(data: bytes) -> np.ndarray:
    """Places of the bytes of a valid model that are not weights."""
    model, inside = schema.Model.GetRootAs(data), np.ones(len(data), dtype=bool)
    for i in range(model.BuffersLength()):
        weights = model.Buffers(i).DataAsNumpy()
        if not isinstance(weights, int) and len(weights) > 64:
            start = weights.__array_interface__["data"][0]
            first = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            inside[start - first : start - first + len(weights)] = False
    return np.flatnonzero(inside)


def _truncate(data: bytearray, at: int, _: Rng) -> None:
    del data[at:]


def _flip(data: bytearray, at: int, rng: Rng) -> None:
    data[at] ^= 1 << int(rng.integers(8))


def _word(data: bytearray, at: int, rng: Rng) -> None:
    at -= at % 4
    data[at : at + 4] = int(rng.choice(WORDS)).to_bytes(4, "little")


def _copy(data: bytearray, at: int, rng: Rng) -> None:
    source = int(rng.integers(len(data))) // 4 * 4
    data[at - at % 4 : at - at % 4 + 4] = data[source : source + 4]


def _cut(data: bytearray, at: int, rng: Rng) -> None:
    del data[at : at + int(rng.integers(1, 64))]


def _double(data: bytearray, at: int, rng: Rng) -> None:
    data[at:at] = data[at : at + int(rng.integers(1, 64))]


def _zero(data: bytearray, at: int, rng: Rng) -> None:
    stretch = data[at : at + int(rng.integers(1, 64))]
    data[at : at + len(stretch)] = bytes(len(stretch))


MUTATIONS: tuple[Callable[[bytearray, int, Rng], None], ...] = (
    *(_flip, _word, _copy) * 3,
    *(_truncate, _cut, _double, _zero),
)


def mutants(
    parents: dict[str, bytes], count: int, seed: int = 0
) -> Iterator[tuple[str, str, bytes]]:
    """Give parent, mutations and bytes of `count` mutants; the same ones for the same seed."""
    places = {name: structure(data) for name, data in parents.items()}
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        name = list(parents)[number % len(parents)]
        data, done = bytearray(parents[name]), []
        for _ in range(int(rng.integers(1, 5))):
            mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
            at = min(int(rng.choice(places[name])), max(0, len(data) - 1))
            if data:
                mutation(data, at, rng)
            done.append(f"{mutation.__name__[1:]}@{at}")
        yield name, f"seed {seed}, number {number}: {' '.join(done)}", bytes(data)


def outcome(path: Path) -> str:
    """Say what the reader makes of a file: read, refused, or what went wrong."""
    try:
        found = read(path)
        found.frame()
    except EdgeError as error:
        text = str(error)
        return "refused" if "\n" not in text and len(text) < 500 else f"long: {text[:100]}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return "read"


def _hang(*_: object) -> None:
    raise TimeoutError(f"longer than {PATIENCE_S} s")


def main() -> None:
    """Run the benchmark, print what came of it and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    parents, outcomes, faults, slowest_s = built() | real(), Counter(), [], 0.0
    signal.signal(signal.SIGALRM, _hang)
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        path, began = Path(folder) / "mutant.tflite", time.perf_counter()
        for name, how, data in mutants(parents, options.mutants, options.seed):
            path.write_bytes(data)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
            start = time.perf_counter()
            said = outcome(path)
            slowest_s = max(slowest_s, time.perf_counter() - start)
            signal.setitimer(signal.ITIMER_REAL, 0)
            outcomes[said if said in ("read", "refused") else "fault"] += 1
            if said not in ("read", "refused"):
                faults.append({"parent": name, "how": how, "said": said})
    growth_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb) / 1024
    result = {
        "python": platform.python_version(),
        "parents": len(parents),
        "real": len(parents) - 2 * len(KERNEL_TYPES),
        "mutants": options.mutants,
        "seed": options.seed,
        **{name: outcomes[name] for name in ("read", "refused", "fault")},
        "slowest_s": slowest_s,
        "seconds": time.perf_counter() - began,
        "memory_growth_mb": growth_mb,
        "faults": faults[:100],
    }
    print(json.dumps(result, indent=1))
    if faults or growth_mb > FLOOD_MB:
        sys.exit("the reader failed: see the faults and the memory above")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
