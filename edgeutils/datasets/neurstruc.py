"""NeurstrucEnergy: PyTorch on one small board; energies are the whole board's, idle included."""

from pathlib import Path

import numpy as np
import pandas as pd

from edgeutils import EdgeError
from edgeutils.datasets.deepen import same_configuration
from edgeutils.networks.kernels import add_work

#: Place of each column among the 19 numbers of a convolution; shapes are square in these files.
_SHAPE = {"hw": 2, "cin": 1, "cout": 5, "kernel_size": 10, "stride": 12, "padding": 14}
_SHAPE |= {"dilation": 16, "groups": 18}
#: Layer id -> numbers that describe the layer, for the ids that occur.
_LAYERS = {1: 19, 7: 17, 13: 9, 16: 5, 19: 5, 21: 4, 22: 6, 23: 3, 24: 3}
_CONV_ID, _LINEAR_ID = 1, 21
#: Name up to its size or variant: MobileNetV3-LARGE -> MobileNetV3, ScarletA -> Scarlet.
_FAMILY = r"^(MobileNetV\d|[A-Za-z]+?)(?:[ABC]|V\d|\d|_|-|$)"


def load_kernels(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the convolutions: energy (J) and latency (s) of one forward pass, power (W)."""
    parts = {Path(path).stem: pd.read_csv(local, sep=r"\s+") for path, local in files.items()}
    raw = pd.concat(parts, names=["file", "row"]).reset_index()
    whole = (raw["data"].str.count(",") == _LAYERS[_CONV_ID] - 1) & (raw["all_energy"] > 0)
    broken, raw = int((~whole).sum()), raw[whole].reset_index(drop=True)
    table = _convolutions(raw["data"].str.split(",", expand=True).to_numpy(float))
    table = table.assign(
        name=raw["file"] + "-" + (raw["row"] + 1).astype(str),
        # The same layer in both files, or written as 1 and 1.0, is one group.
        group=same_configuration(table[list(_SHAPE)]),
        latency_s=raw["time"] / raw["forward_num"],
        power_w=raw["mean_power"],
        energy_j=raw["all_energy"],
        repeats=raw["forward_num"],
    )
    repeated = int(table["group"].duplicated(keep=False).sum())
    defects = {"broken row of zeros, left out": broken}
    return table, defects | {"configuration measured more than once (kept, one group)": repeated}


def _convolutions(values: np.ndarray) -> pd.DataFrame:
    """Kernel type and configuration of convolutions; `values` has shape (n, 19)."""
    frame = pd.DataFrame(values[:, list(_SHAPE.values())], columns=list(_SHAPE)).astype(int)
    depthwise = (frame["groups"] == frame["cin"]) & (frame["cin"] == frame["cout"])
    kind = np.where(depthwise & (frame["cin"] > 1), "dwconv-bn-relu", "conv-bn-relu")
    return frame.assign(kernel_type=kind)


def _work(path: Path) -> pd.DataFrame:
    """`macs` and `params` of each network (index), summed over its layers."""
    work = {}
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
        layers = pd.concat([_convolutions(np.array(convs)), fc], ignore_index=True)
        work[str(row.name)] = add_work(layers)[["macs", "params"]].sum()
    return pd.DataFrame(work).T


def load_networks(files: dict[str, Path]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Load the 17 networks: mean energy (J) of one forward pass over three measurements."""
    runs = [pd.read_csv(local, sep=r"\s+").set_index("name") for local in files.values()]
    energies = pd.concat([run["all_energy"] for run in runs], axis=1)
    family = energies.index.to_series().str.extract(_FAMILY)[0].str.lower()
    table = _work(next(iter(files.values()))).assign(
        name=energies.index,
        family=family.str.replace("netv", "net-v"),
        energy_j=energies.mean(axis=1),
        energy_std=energies.std(axis=1),
        repeats=energies.notna().sum(axis=1),
    )
    return table.reset_index(drop=True), {}
