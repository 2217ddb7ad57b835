"""NeurstrucEnergy: convolutions and whole networks under PyTorch on one small board.

Energies are whole-board energies per forward pass, idle included, as the networks have no other.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from edgeutils import EdgeError
from edgeutils.datasets.deepen import same_configuration
from edgeutils.networks.kernels import add_work

_BOARD = {"device": "board of NeurstrucEnergy", "processor": "CPU", "runtime": "PyTorch"}
_BOARD |= {"dtype": "float32"}

#: Place of each column among the 19 numbers of a convolution; shapes are square in these files.
_SHAPE = {"hw": 2, "cin": 1, "cout": 5, "kernel_size": 10, "stride": 12, "padding": 14}
_SHAPE |= {"dilation": 16, "groups": 18}
_NUMBERS = 19

#: Layer id -> numbers that describe the layer, for the ids that occur.
_LAYERS = {1: 19, 7: 17, 13: 9, 16: 5, 19: 5, 21: 4, 22: 6, 23: 3, 24: 3}
_CONV_ID, _LINEAR_ID = 1, 21

#: Name up to its size or variant: MobileNetV3-LARGE -> MobileNetV3, ScarletA -> Scarlet.
_FAMILY = r"^(MobileNetV\d|[A-Za-z]+?)(?:[ABC]|V\d|\d|_|-|$)"


def load_kernels(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the convolutions: energy (J) and latency (s) of one forward pass, power (W)."""
    parts = []
    for path, local in files.items():
        part = pd.read_csv(local, sep=r"\s+")
        stem = Path(path).stem
        parts.append(part.assign(name=[f"{stem}-{i}" for i in range(1, len(part) + 1)]))
    raw = pd.concat(parts, ignore_index=True)
    whole = (raw["data"].str.count(",") == _NUMBERS - 1) & (raw["all_energy"] > 0)
    broken, raw = int((~whole).sum()), raw[whole].reset_index(drop=True)
    shape = _conv_frame(raw["data"].str.split(",", expand=True).to_numpy(float))
    table = shape.assign(
        name=raw["name"],
        # The same layer in both files, or written as 1 and 1.0, is one group.
        group=same_configuration(shape[list(_SHAPE)]),
        **_BOARD,
        latency_s=raw["time"] / raw["forward_num"],
        power_w=raw["mean_power"],
        energy_j=raw["all_energy"],
        repeats=raw["forward_num"],
    )
    repeated = int(table["group"].duplicated(keep=False).sum())
    defects = {"broken row of zeros, left out": broken}
    return table, defects | {"configuration measured more than once (kept, one group)": repeated}


def _conv_frame(values: np.ndarray) -> pd.DataFrame:
    """Kernel type and configuration of convolutions; `values` has shape (n, 19)."""
    frame = pd.DataFrame(values[:, list(_SHAPE.values())], columns=list(_SHAPE)).astype(int)
    depthwise = (frame["groups"] == frame["cin"]) & (frame["cin"] == frame["cout"])
    kind = np.where(depthwise & (frame["cin"] > 1), "dwconv-bn-relu", "conv-bn-relu")
    return frame.assign(kernel_type=kind)


def network_layers(path: Path) -> dict[str, pd.DataFrame]:
    """Read the layers of each network that do multiply-accumulates.

    Returns
    -------
    dict of pandas.DataFrame
        Network name -> convolutions and fully connected layers with the configuration columns
        of the measurement table and the number of all layers in ``attrs["layers"]``.

    Raises
    ------
    EdgeError
        The numbers of a network do not add up to its layers.
    """
    networks = {}
    for row in pd.read_csv(path, sep=r"\s+").itertuples():
        numbers = np.array(str(row.layer_parameters).split(","), dtype=float)
        ids = np.array(str(row.layer_id).split(","), dtype=float).astype(int)
        sizes = [_LAYERS.get(i, 0) for i in ids]
        if 0 in sizes or sum(sizes) != len(numbers):
            raise EdgeError(f"{path}: the layers of {row.name} do not add up to its parameters")
        blocks = np.split(numbers, np.cumsum(sizes)[:-1])
        convs = [b for i, b in zip(ids, blocks, strict=True) if i == _CONV_ID]
        linear = [b[[1, 3]] for i, b in zip(ids, blocks, strict=True) if i == _LINEAR_ID]
        fc = pd.DataFrame(linear, columns=["cin", "cout"]).astype(int).assign(kernel_type="fc")
        layers = pd.concat([_conv_frame(np.array(convs)), fc], ignore_index=True)
        layers.attrs["layers"] = len(ids)
        networks[str(row.name)] = layers.assign(dtype="float32")
    return networks


def load_networks(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the 17 networks: mean energy (J) of one forward pass over three measurements."""
    runs = {path: pd.read_csv(p, sep=r"\s+").set_index("name") for path, p in files.items()}
    energies = pd.DataFrame({path: run["all_energy"] for path, run in runs.items()})
    layers = network_layers(next(iter(files.values())))
    work = pd.DataFrame(
        {name: add_work(frame)[["macs", "params"]].sum() for name, frame in layers.items()}
    ).T
    names = pd.Series(energies.index, energies.index)
    family = names.str.extract(_FAMILY)[0].str.lower().str.replace("netv", "net-v")
    table = energies.assign(
        name=names,
        model=names,
        family=family,
        group=family,
        **_BOARD,
        task="image classification",
        macs=work["macs"],
        params=work["params"],
        energy_j=energies.mean(axis=1),
        energy_std=energies.std(axis=1),
        repeats=energies.notna().sum(axis=1),
    ).drop(columns=energies.columns)
    return table.reset_index(drop=True), {}
